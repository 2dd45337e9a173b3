"""Deformable convolutions v1 and v2 as layers, and the ResNet stages they go into.

v1: Dai et al., *Deformable Convolutional Networks*, 2017. v2: Zhu et al., *Deformable ConvNets v2*, 2019.
A detector with them in C3..C5 is the host "DCN" of DIR Table 2. Parameter names and the order of channels are
mmcv's (`conv2.weight`, `conv2.conv_offset.weight`), so that weights trained there map one to one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from jaxtyping import Float
from torch import Tensor, nn

from model.ops import deform_conv2d


class DeformConv2d(nn.Conv2d):
    """A convolution whose taps are moved by offsets that a second convolution predicts from the same map.

    `modulated` (v2) also weighs each tap with a predicted number of (0, 1). Offsets start at zero and weights
    at a half: a fresh v1 layer is the plain convolution, a fresh v2 layer half of it. It remains a Conv2d to
    whoever looks for convolutions, and export folds the batch norm behind it as behind any other.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        bias: bool = True,
        *,
        modulated: bool,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        taps = kernel_size[0] * kernel_size[1]
        self.modulated = modulated
        # one field of offsets for all channels, predicted from all of them whatever `groups` is
        self.conv_offset = nn.Conv2d(
            in_channels, (3 if modulated else 2) * taps, kernel_size, stride, padding, dilation
        )
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(cast(Tensor, self.conv_offset.bias))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O h w"]:
        predicted, mask = self.conv_offset(x), None
        if self.modulated:
            taps = self.kernel_size[0] * self.kernel_size[1]
            predicted, mask_logits = predicted.split([2 * taps, taps], dim=1)
            mask = mask_logits.sigmoid()
        # Under autocast maps and offsets come in half precision, and the weights in float32. A position on a
        # wide map needs float32, and the operator needs one type: the weights'.
        dtype = self.weight.dtype
        out: Tensor = deform_conv2d(
            x.to(dtype),
            predicted.to(dtype),
            None if mask is None else mask.to(dtype),
            self.weight,
            list(self.stride),
            list(cast("tuple[int, int]", self.padding)),
            list(self.dilation),
            self.groups,
        )
        if self.bias is not None:
            out = out + self.bias[:, None, None]
        return out.to(x.dtype)


def make_deformable(stages: Iterable[nn.Module], *, modulated: bool) -> None:
    """Turn the 3x3 convolution of every bottleneck into a deformable one, which keeps its weights."""
    for stage in stages:
        for block in stage.children():
            plain = cast(nn.Conv2d, block.conv2)
            layer = DeformConv2d(
                plain.in_channels,
                plain.out_channels,
                cast("tuple[int, int]", plain.kernel_size),
                cast("tuple[int, int]", plain.stride),
                cast("tuple[int, int]", plain.padding),
                cast("tuple[int, int]", plain.dilation),
                plain.groups,
                plain.bias is not None,
                modulated=modulated,
            )
            layer.weight, layer.bias = plain.weight, plain.bias
            block.conv2 = layer
