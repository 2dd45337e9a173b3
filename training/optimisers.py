"""Optimisers: what is trained, with which weight decay, by which rule."""

from __future__ import annotations

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from training.recipe import Optimisation


def build_optimiser(detector: nn.Module, recipe: Optimisation) -> Optimizer:
    """SGD (the papers') or AdamW; weight decay spares biases and norms (one-dimensional parameters)."""
    trained = [p for p in detector.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimiser == "adamw":
        return AdamW(groups, lr=recipe.lr, betas=(recipe.momentum, 0.999))
    return SGD(groups, lr=recipe.lr, momentum=recipe.momentum)
