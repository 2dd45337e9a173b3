"""Feature pyramid: lateral 1x1, top-down addition, output 3x3, and a pooled level on top for the RPN."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm(nn.BatchNorm2d):
    """Batch norm by its running statistics, in training too: detection batches are too small for others."""

    def train(self, mode: bool = True) -> FrozenBatchNorm:
        super().train(False)
        return self


def _convolution(inputs: int, outputs: int, kernel: int, norm: bool) -> nn.Module:
    """With `norm`, bias gives way to a batch norm of which scale and shift are trained."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=not norm)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return nn.Sequential(conv, FrozenBatchNorm(outputs)) if norm else conv


class FeaturePyramid(nn.Module):
    """Backbone features (finest first) -> as many of `channels`, and a pooled one at half the coarsest."""

    def __init__(self, in_channels: Sequence[int], channels: int, norm: bool = False) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(_convolution(c, channels, 1, norm) for c in in_channels)
        self.output = nn.ModuleList(_convolution(channels, channels, 3, norm) for _ in in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        top = self.lateral[-1](features[-1])
        outputs = [self.output[-1](top)]
        for i in range(len(features) - 2, -1, -1):
            lateral = self.lateral[i](features[i])
            top = lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
            outputs.insert(0, self.output[i](top))
        outputs.append(F.max_pool2d(outputs[-1], kernel_size=1, stride=2))
        return outputs
