"""What went wrong in torch, as the errors of hindsight."""

from __future__ import annotations

import torch

from hindsight.errors import DeviceLost, RuntimeFailure

# What CUDA itself reports, rather than torch, stays with the process; torch tells the two apart since 2.8.
_OF_CUDA: tuple[type[Exception], ...] = (
    (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
)
_OUT_OF_MEMORY = 2  # of CUDA's errors the one that a smaller batch gets over


def failure_of(error: Exception, said: str) -> RuntimeFailure:
    """The error to raise for `error`: `said`, and its first line."""
    message = f"{said}: {(str(error) or type(error).__name__).splitlines()[0][:300]}"
    if isinstance(error, _OF_CUDA) and getattr(error, "error_code", None) != _OUT_OF_MEMORY:
        return DeviceLost(message)
    return RuntimeFailure(message)
