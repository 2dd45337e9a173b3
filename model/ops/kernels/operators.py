"""The kernels as CUDA implementations of the torch operators; the torch forms where kernels cannot run.

Where cuda-bindings, NVRTC or a GPU new enough is missing, the torch form answers and the log says so, once.
A kernel that does not compile or launch is an error: nothing hides it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from model.ops.iou_guided_nms import iou_guided_nms, iou_guided_nms_torch
from model.ops.kernels import launchers
from model.ops.kernels.compile import KernelsUnavailable
from model.ops.kernels.driver import Queue
from model.ops.nms import batched_nms, batched_nms_torch
from model.ops.roi_align import multilevel_roi_align, multilevel_roi_align_torch
from model.ops.soft_nms import check_method, soft_nms, soft_nms_torch

P = ParamSpec("P")
R = TypeVar("R")
_log = logging.getLogger("hindsight.kernels")


def _queue(tensor: Tensor) -> Queue:
    """The GPU of the tensor and the stream that torch works on there."""
    device = tensor.get_device()
    return Queue(device, torch.cuda.current_stream(device).cuda_stream)


@cache
def _say_so(reason: str) -> None:
    _log.warning("our operators run in torch, not as CUDA kernels, and wait for the GPU: %s", reason)


def kernel_or_torch(
    kernel: Callable[[], R], torch_form: Callable[P, R], *args: P.args, **kwargs: P.kwargs
) -> R:
    """What the kernel gives; where this machine cannot run any, what torch gives, and a warning."""
    try:
        return kernel()
    except KernelsUnavailable as error:
        _say_so(str(error))
        return torch_form(*args, **kwargs)


@multilevel_roi_align.register_kernel("cuda")
def _(
    features: Sequence[Tensor],
    rois: Tensor,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    args = (features, rois, strides, output_size, sampling_ratio, aligned)
    return kernel_or_torch(
        lambda: launchers.roi_align(*args, _queue(rois)), multilevel_roi_align_torch, *args
    )


@batched_nms.register_kernel("cuda")
def _(boxes: Tensor, scores: Tensor, threshold: Tensor) -> Tensor:
    args = (boxes, scores, threshold)
    return kernel_or_torch(lambda: launchers.batched_nms(*args, _queue(boxes)), batched_nms_torch, *args)


@iou_guided_nms.register_kernel("cuda")
def _(boxes: Tensor, class_scores: Tensor, ious: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    args = (boxes, class_scores, ious, threshold)
    return kernel_or_torch(
        lambda: launchers.iou_guided_nms(*args, _queue(boxes)), iou_guided_nms_torch, *args
    )


@soft_nms.register_kernel("cuda")
def _(
    boxes: Tensor,
    scores: Tensor,
    threshold: Tensor,
    method: str,
    sigma: float,
    min_score: float,
    steps: int,
) -> Tensor:
    check_method(method)
    args = (boxes, scores, threshold, method, sigma, min_score, steps)
    return kernel_or_torch(lambda: launchers.soft_nms(*args, _queue(boxes)), soft_nms_torch, *args)
