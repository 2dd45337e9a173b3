"""Ready a detector for tracing: a copy whose padding does not depend on the image's size."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from model.detector import TwoStageDetector


class StaticSameConv2d(nn.Module):
    """A convolution with TensorFlow's "same" padding for inputs whose sides its stride divides.

    timm computes that padding from the input's size, which nests one symbolic expression per layer into the
    traced graph and makes tracing take forever. Our images have sides that are multiples of 32, so it is a
    constant.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        totals = [
            max((kernel - 1) * dilation + 1 - stride, 0)
            for kernel, stride, dilation in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        ]
        vertical, horizontal = totals
        self.padding = (
            horizontal // 2,
            horizontal - horizontal // 2,
            vertical // 2,
            vertical - vertical // 2,
        )

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        padded = F.pad(x, self.padding)
        return F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def prepared_copy(detector: TwoStageDetector) -> TwoStageDetector:
    """A copy of `detector` for export; the same function of images whose sides are multiples of 32."""
    from timm.layers.conv2d_same import Conv2dSame

    prepared = copy.deepcopy(detector).eval().requires_grad_(False)
    for module in list(prepared.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv2dSame):
                setattr(module, name, StaticSameConv2d(child))
    return prepared
