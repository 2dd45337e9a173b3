"""What went wrong in torch, as the errors of hindsight."""

from __future__ import annotations

import torch

from hindsight.errors import RuntimeFailure
from hindsight.runtime.cuda_errors import failure_kind

_NO_MEMORY = 2  # CUDA's number
# What CUDA itself reports, rather than torch, is of this kind since 2.8; before, a RuntimeError with its
# words.
_OF_CUDA: tuple[type[Exception], ...] = (
    (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
)


def failure_of(error: Exception, said: str) -> RuntimeFailure:
    """The error to raise for `error`: `said`, and its first line. DeviceLost where a new process helps."""
    text = str(error)
    message = f"{said}: {(text or type(error).__name__).splitlines()[0][:300]}"
    if isinstance(error, torch.OutOfMemoryError):
        return failure_kind(text, _NO_MEMORY)(message)
    code = getattr(error, "error_code", None) if isinstance(error, _OF_CUDA) else None
    return failure_kind(text, code if isinstance(code, int) else None)(message)
