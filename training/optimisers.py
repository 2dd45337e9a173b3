"""Optimisers: what is trained, with which weight decay, by which rule."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from training.recipe import Optimisation

FACTOR = "lr_factor"  # of a parameter group


def set_rate(optimiser: Optimizer, rate: float) -> None:
    """The step's learning rate, times each group's own factor."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group[FACTOR]


def build_optimiser(detector: nn.Module, recipe: Optimisation) -> Optimizer:
    """SGD (the papers') or AdamW; weight decay spares biases and norms (one-dimensional parameters)."""
    groups: list[dict[str, Any]] = []
    for head, factor in ((False, 1.0), (True, recipe.localization_lr_factor)):
        own = [
            p
            for name, p in detector.named_parameters()
            if p.requires_grad and name.startswith("localization.") == head
        ]
        groups += [
            {"params": [p for p in own if p.dim() > 1], "weight_decay": recipe.weight_decay, FACTOR: factor},
            {"params": [p for p in own if p.dim() <= 1], "weight_decay": 0.0, FACTOR: factor},
        ]
    if recipe.optimiser == "adamw":
        return AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
