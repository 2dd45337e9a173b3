"""A ResNeXt thin enough for tests under the name `toy_resnet`, and weights that no mistake survives."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from model.resnet import RESNETS, ResNetShape

NAME = "toy_resnet"


def add_toy_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    """One bottleneck a stage, its 3x3 of 8, 16, 32 and 64 channels in two groups."""
    monkeypatch.setitem(RESNETS, NAME, ResNetShape((1, 1, 1, 1), groups=2, base_width=4))


@torch.no_grad()
def stir(module: nn.Module, seed: int = 0) -> None:
    """Batch norms that do something, and offsets of a few pixels that differ from place to place."""
    generator = torch.Generator().manual_seed(seed)
    for name, child in module.named_modules():
        if isinstance(child, nn.BatchNorm2d):
            for value in (child.running_mean, child.bias):
                assert value is not None
                value.normal_(0, 0.1, generator=generator)
            for value in (child.running_var, child.weight):
                assert value is not None
                value.uniform_(0.6, 1.4, generator=generator)
        elif name.endswith("conv_offset"):
            assert isinstance(child, nn.Conv2d) and child.bias is not None
            child.weight.normal_(0, 0.5 / child.in_channels**0.5, generator=generator)
            child.bias.uniform_(-1.5, 1.5, generator=generator)
