"""The dense part of a detector (convolutions and fully connected layers) made ready for one device.

What is not dense (boxes, softmax, NMS) stays float32 whatever the precision: the detector itself widens
logits and deltas before it decodes or ranks by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from export.torch_options import TorchOptions
from model.deformable import DeformConv2d
from model.detector import TwoStageDetector

_SHAPES_COMPILED = 64  # each shape of input is compiled for itself; torch's own limit is 8


def made_ready(detector: TwoStageDetector, device: torch.device, options: TorchOptions) -> TwoStageDetector:
    """`detector`, changed in place: on `device`, its weights in the precision that they are used in."""
    if options.half is not None:
        _narrow(detector, options.half)
    detector.to(device)
    if device.type == "cuda":
        detector.to(memory_format=torch.channels_last)
    if options.compile:
        # As attributes of the instance they stand before the class's methods.
        for module, method in ((detector, "extract"), (detector.rpn, "forward")):
            setattr(module, method, torch.compile(getattr(module, method), dynamic=False))
    return detector


def _narrow(detector: nn.Module, dtype: torch.dtype) -> None:
    """Autocast would narrow frozen weights anew in every call. A deformable convolution's own stay: its
    positions need float32.
    """
    for module in detector.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and not isinstance(
            module, DeformConv2d
        ):
            module.to(dtype)


@contextmanager
def dense_context(device: torch.device, options: TorchOptions) -> Iterator[None]:
    """Within it the detector runs: no gradients, the precision asked for.

    cuDNN guesses its algorithms. A search would time ten for each convolution and each new shape of input,
    which takes seconds that a stream of photos of many shapes does not have; what comes first is kept, so
    searching later, for a graph, would find nothing.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        if options.compile:
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=_SHAPES_COMPILED))
        if options.half is not None:
            # No cache: a CUDA graph must not hold tensors that it keeps.
            stack.enter_context(torch.autocast(device.type, options.half, cache_enabled=False))
        if device.type == "cuda":
            allowed = options.precision != "fp32"
            stack.enter_context(
                torch.backends.cudnn.flags(True, benchmark=options.search, allow_tf32=allowed)
            )
            stack.enter_context(_tf32_products(allowed))
        yield


@contextmanager
def _tf32_products(allowed: bool) -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
