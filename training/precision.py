"""Mixed precision, as a recipe's `amp` names it: "off", "bf16" or "fp16"."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["autocast", "loss_scaler"]


def autocast(amp: str, device: str) -> AbstractContextManager[object]:
    """What a forward pass runs in."""
    if amp == "off":
        return nullcontext()
    return torch.autocast(torch.device(device).type, torch.bfloat16 if amp == "bf16" else torch.float16)


def loss_scaler(amp: str, device: str) -> torch.amp.GradScaler:
    """Keeps the gradients of fp16 from vanishing; with the others it changes nothing."""
    return torch.amp.GradScaler(device, enabled=amp == "fp16")
