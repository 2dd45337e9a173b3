"""Deformable convolution: each tap of the kernel reads the map where an offset says, not on a grid.

`deform_conv2d` is a torch.library operator over torchvision's kernels, so that export carries it as one node.
Autograd cannot look into such an operator, so torchvision's backward kernel is registered with it: training,
inference and export all run the very same forward. `deform_conv2d_reference` is the definition, which the
operator is tested against.

Shapes: B images, C channels in, O out, g groups; a kernel of kh x kw taps, K = kh * kw, counted row by row;
maps of H x W in and h x w out. Offsets are in pixels of the map that is read: (dy, dx) of tap 0, of tap 1 and
so on, as in torchvision and mmcv. One offset field serves all channels (mmcv: deform_groups = 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import torchvision
from jaxtyping import Float
from torch import Tensor


@torch.library.custom_op(
    "hindsight::deform_conv2d",
    mutates_args=(),
    # spelled out: inferring it fails where annotations are checked, as under our tests
    schema=(
        "(Tensor x, Tensor offset, Tensor? mask, Tensor weight, int[2] stride, int[2] padding, "
        "int[2] dilation, int groups) -> Tensor"
    ),
)
def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """x [B, C, H, W], offset [B, 2 * K, h, w], weight [O, C / g, kh, kw] -> [B, O, h, w]; all of one type.

    mask [B, K, h, w] multiplies what each tap reads (v2); None multiplies nothing (v1). Stride, padding and
    dilation are (vertical, horizontal). Between pixels the map is interpolated; outside it is zero.
    """
    _check_channels(offset, mask, weight)
    return torchvision.ops.deform_conv2d(  # type: ignore[no-any-return]
        x,
        offset,
        weight,
        None,
        (stride[0], stride[1]),
        (padding[0], padding[1]),
        (dilation[0], dilation[1]),
        mask,
    )


@deform_conv2d.register_fake
def _(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    _check_channels(offset, mask, weight)
    return x.new_empty(x.shape[0], weight.shape[0], offset.shape[2], offset.shape[3])


def _check_channels(offset: Tensor, mask: Tensor | None, weight: Tensor) -> None:
    """torchvision would read other multiples of the taps as several offset fields."""
    taps = weight.shape[2] * weight.shape[3]
    if offset.shape[1] != 2 * taps:
        raise ValueError(f"offset must have {2 * taps} channels (2 per tap), got {offset.shape[1]}")
    if mask is not None and mask.shape[1] != taps:
        raise ValueError(f"mask must have {taps} channels (1 per tap), got {mask.shape[1]}")


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, offset, mask, weight, *ctx.geometry = inputs
    ctx.save_for_backward(x, offset, mask, weight)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, offset, mask, weight = ctx.saved_tensors
    stride, padding, dilation, groups = ctx.geometry
    by_x, by_weight, by_offset, by_mask, _ = torch.ops.torchvision._deform_conv2d_backward(
        gradient,
        x,
        weight,
        offset,
        x.new_zeros(x.shape[0], 1) if mask is None else mask,
        x.new_zeros(weight.shape[0]),  # the bias, which we add outside
        *stride,
        *padding,
        *dilation,
        groups,
        1,
        mask is not None,
    )
    return by_x, by_offset, None if mask is None else by_mask, by_weight, None, None, None, None


deform_conv2d.register_autograd(_backward, setup_context=_setup_context)


def deform_conv2d_reference(
    x: Float[Tensor, "B C H W"],
    offset: Float[Tensor, "B _ h w"],
    mask: Float[Tensor, "B K h w"] | None,
    weight: Float[Tensor, "O Cg kh kw"],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Float[Tensor, "B O h w"]:
    """The definition, sample by sample: Dai et al. 2017, Eq. (2); with a mask Zhu et al. 2019, Eq. (1)."""
    out_channels, _, kernel_h, kernel_w = weight.shape
    by_group = weight.reshape(groups, out_channels // groups, -1, kernel_h, kernel_w)
    out = x.new_zeros(x.shape[0], out_channels, *offset.shape[2:])
    for image, row, column in product(*(range(out.shape[axis]) for axis in (0, 2, 3))):
        for tap, (i, j) in enumerate(product(range(kernel_h), range(kernel_w))):
            dy, dx = offset[image, 2 * tap : 2 * tap + 2, row, column].tolist()
            read = _bilinear(
                x[image],
                row * stride[0] - padding[0] + i * dilation[0] + dy,
                column * stride[1] - padding[1] + j * dilation[1] + dx,
            )
            if mask is not None:
                read = read * mask[image, tap, row, column]
            products = torch.einsum("goc,gc->go", by_group[..., i, j], read.reshape(groups, -1))
            out[image, :, row, column] += products.flatten()
    return out


def _bilinear(feature: Float[Tensor, "C H W"], y: float, x: float) -> Float[Tensor, " C"]:
    """The sum over pixels q of value * max(0, 1 - |q_y - y|) * max(0, 1 - |q_x - x|): Dai et al., Eq. (4)."""
    value = feature.new_zeros(feature.shape[0])
    for row, column in product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        if 0 <= row < feature.shape[1] and 0 <= column < feature.shape[2]:
            value += feature[:, row, column] * (1 - abs(row - y)) * (1 - abs(column - x))
    return value
