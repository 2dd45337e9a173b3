"""The kernels as CUDA implementations of the torch operators; the torch forms where kernels cannot run.

Where cuda-bindings, NVRTC or a GPU new enough is missing, the torch form answers and the log says so, once.
A kernel that does not compile or launch is an error: nothing hides it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from model.kernels.compile import KernelsUnavailable
from model.kernels.driver import Queue
from model.ops import launchers
from model.ops.iou_guided_nms import iou_guided_nms, iou_guided_nms_torch
from model.ops.nms import batched_nms, batched_nms_torch
from model.ops.roi_align import multilevel_roi_align, multilevel_roi_align_torch
from model.ops.soft_nms import soft_nms, soft_nms_torch

_log = logging.getLogger("hindsight.kernels")


def queue_of(args: tuple[Any, ...]) -> Queue:
    """The GPU of an operator's first tensor and the stream that torch works on there."""
    device = next(arg for arg in args if isinstance(arg, Tensor)).get_device()
    return Queue(device, torch.cuda.current_stream(device).cuda_stream)


@cache
def _say_so(reason: str) -> None:
    _log.warning("our operators run in torch, not as CUDA kernels, and wait for the GPU: %s", reason)


def kernel_or_torch(launcher: Callable[..., Any], torch_form: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the operator's own arguments: what the kernel gives; where this machine cannot run any,
    what torch gives, and a warning.
    """

    def implementation(*args: Any) -> Any:
        try:
            return launcher(*args, queue_of(args))
        except KernelsUnavailable as error:
            _say_so(str(error))
            return torch_form(*args)

    return implementation


multilevel_roi_align.register_kernel("cuda", kernel_or_torch(launchers.roi_align, multilevel_roi_align_torch))
batched_nms.register_kernel("cuda", kernel_or_torch(launchers.batched_nms, batched_nms_torch))
iou_guided_nms.register_kernel("cuda", kernel_or_torch(launchers.iou_guided_nms, iou_guided_nms_torch))
soft_nms.register_kernel("cuda", kernel_or_torch(launchers.soft_nms, soft_nms_torch))
