"""What went wrong in torch, as the errors of hindsight."""

from __future__ import annotations

import re

import torch

from hindsight.errors import DeviceLost, OutOfMemory, RuntimeFailure

# What CUDA itself reports, rather than torch, stays with the process; torch tells the two apart since 2.8.
_OF_CUDA: tuple[type[Exception], ...] = (
    (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
)
_OUT_OF_MEMORY = 2  # of CUDA's errors the one that a smaller batch gets over
# Where torch's CPU allocator, cuDNN or cuBLAS found no room, it is a plain RuntimeError that says so.
_NO_ROOM = re.compile(
    r"not enough memory|can't allocate memory|out of memory"
    r"|CUDNN_STATUS_ALLOC_FAILED|CUBLAS_STATUS_ALLOC_FAILED",
    re.IGNORECASE,
)


def failure_of(error: Exception, said: str) -> RuntimeFailure:
    """The error to raise for `error`: `said`, and its first line."""
    message = f"{said}: {(str(error) or type(error).__name__).splitlines()[0][:300]}"
    if isinstance(error, torch.OutOfMemoryError):
        return OutOfMemory(message)
    if isinstance(error, _OF_CUDA):
        return (OutOfMemory if getattr(error, "error_code", None) == _OUT_OF_MEMORY else DeviceLost)(message)
    if _NO_ROOM.search(str(error)):
        return OutOfMemory(message)
    return RuntimeFailure(message)
