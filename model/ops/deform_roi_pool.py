"""Deformable RoI pooling: RoI-Align with bins that each move by an offset of their own.

Dai et al., "Deformable Convolutional Networks", 2017, §2.2, on a pyramid. The level is that of the box as it
stands: an offset moves what a bin reads, never the map that it reads from. A bin averages samples x samples
bilinear reads, so that offsets of zero give RoI-Align with `samples` for its sampling ratio.

`deform_roi_pool` is the inference form, fixed shapes made of the RoI-Align operator, which is what exports;
`deform_pool_ragged` is its twin for training, differentiable in features and offsets, over a list of boxes
per image; `deform_roi_pool_reference` is the slow one that the others are tested against.

Shapes: B images of N boxes, M boxes in all; maps of C channels; s x s bins, r x r samples in each. Offsets
[..., 2, s, s] are (dx, dy) in input pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from model.ops.roi_align import _bilinear, multilevel_roi_align, roi_levels

# Where a bin goes that some other level reads: RoI-Align reads zero beyond one feature pixel of its map.
_FAR_OUTSIDE = -1e6


def _moved_bins(
    boxes: Float[Tensor, "*M 4"],
    offsets: Float[Tensor, "*M 2 s s"],
    strides: Float[Tensor, "*M"],
    aligned: bool,
) -> Float[Tensor, "*M s s 4"]:
    """Each box's bins after their move, as boxes for an ALIGNED RoI-Align of a single bin."""
    corner, wh = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    if not aligned:  # the original RoI-Align lies half a feature pixel further on, and is one at least
        corner = corner + strides[..., None] / 2
        wh = torch.maximum(wh, strides[..., None])
    side = (wh / offsets.shape[-1])[..., None, None]
    steps = torch.arange(offsets.shape[-1], dtype=boxes.dtype, device=boxes.device)
    left = corner[..., 0, None, None] + steps * side[..., 0, :, :] + offsets[..., 0, :, :]
    top = corner[..., 1, None, None] + steps[:, None] * side[..., 1, :, :] + offsets[..., 1, :, :]
    return torch.stack([left, top, left + side[..., 0, :, :], top + side[..., 1, :, :]], dim=-1)


def deform_roi_pool(
    features: Sequence[Tensor],
    rois: Float[Tensor, "B N 4"],
    offsets: Float[Tensor, "B N 2 s s"],
    strides: Sequence[int],
    samples: int,
    aligned: bool,
) -> Float[Tensor, "BN C s s"]:
    """features: L maps [B, C, h, w]; rois xyxy input pixels -> [B * N, C, s, s], of the type that
    RoI-Align gives.

    Every level pools every bin, but finds those of other levels outside its map, where there is only zero:
    the sum over levels needs no rows picked out, whose number would depend on the data.
    """
    side = offsets.shape[-1]
    levels = roi_levels(rois, strides)
    # picked out one by one: a tensor of the strides would be copied to the device, and no graph holds that
    stride_of = torch.zeros_like(rois[..., 0])
    for index, stride in enumerate(strides):
        stride_of = torch.where(levels == index, float(stride), stride_of)
    bins = _moved_bins(rois, offsets, stride_of, aligned).flatten(1, 3)
    level_of_bin = levels[..., None].expand(-1, -1, side * side).flatten(1)
    pooled: Tensor | None = None
    for index, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        here = torch.where((level_of_bin == index)[..., None], bins, _FAR_OUTSIDE)
        read = multilevel_roi_align([feature], here, [stride], 1, samples, True)
        pooled = read if pooled is None else pooled + read
    assert pooled is not None
    return pooled.reshape(-1, side, side, features[0].shape[1]).permute(0, 3, 1, 2)


def deform_pool_ragged(
    features: Sequence[Tensor],
    boxes: Sequence[Float[Tensor, "_ 4"]],
    offsets: Float[Tensor, "M 2 s s"],
    strides: Sequence[int],
    samples: int,
    aligned: bool,
) -> Float[Tensor, "M C s s"]:
    """One list of boxes per image, offsets image after image -> features of all in that order.

    Differentiable in `features` and `offsets`, the boxes are constants. At least float32.
    """
    flat = torch.cat(list(boxes)).to(offsets.dtype)
    levels = roi_levels(flat, strides)
    stride_of = flat.new_tensor(strides)[levels]
    bins = _moved_bins(flat, offsets, stride_of, aligned)
    shares = (torch.arange(samples, dtype=flat.dtype, device=flat.device) + 0.5) / samples
    low, side = bins[..., None, :2], bins[..., None, 2:] - bins[..., None, :2]
    along = low + shares[:, None] * side  # [M, s, s, r, 2]
    points = torch.stack(
        torch.broadcast_tensors(along[..., None, :, 0], along[..., :, None, 1]), dim=-1
    )  # [M, s, s, r, r, 2]
    points = points.flatten(3, 4) / stride_of[:, None, None, None, None] - 0.5
    image = torch.cat([torch.full_like(levels[: len(b)], i) for i, b in enumerate(boxes)])
    pooled, order = [], []
    for i, index in product(range(len(boxes)), range(len(features))):
        rows = torch.nonzero((image == i) & (levels == index)).squeeze(1)
        order.append(rows)
        pooled.append(_read(features[index][i], points[rows]))
    return torch.cat(pooled)[torch.argsort(torch.cat(order))]


def _read(feature: Float[Tensor, "C h w"], points: Float[Tensor, "n s s rr 2"]) -> Float[Tensor, "n C s s"]:
    """Mean over the points (x, y) of each bin: zero beyond one pixel outside, edge values within that."""
    size = points.new_tensor([feature.shape[2], feature.shape[1]])
    inside = ((points >= -1) & (points <= size)).all(dim=-1)
    grid = ((2 * points + 1) / size - 1).flatten(2, 3).flatten(0, 1)[None]
    read = F.grid_sample(
        feature[None].to(points.dtype), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    by_bin = read.reshape(feature.shape[0], *inside.shape) * inside
    return by_bin.mean(dim=-1).transpose(0, 1)


def deform_roi_pool_reference(
    features: Sequence[Tensor],
    rois: Float[Tensor, "B N 4"],
    offsets: Float[Tensor, "B N 2 s s"],
    strides: Sequence[int],
    samples: int,
    aligned: bool,
) -> Float[Tensor, "BN C s s"]:
    """The definition, one sample at a time. Shapes as `deform_roi_pool`."""
    levels, side = roi_levels(rois, strides), offsets.shape[-1]
    out = rois.new_zeros(*rois.shape[:2], features[0].shape[1], side, side)
    for image, n in product(range(rois.shape[0]), range(rois.shape[1])):
        level = int(levels[image, n])
        stride, feature = strides[level], features[level][image]
        x1, y1, x2, y2 = (v / stride - (0.5 if aligned else 0.0) for v in rois[image, n].tolist())
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        for row, column in product(range(side), range(side)):
            dx, dy = (offsets[image, n, :, row, column] / stride).tolist()
            for i, j in product(range(samples), range(samples)):
                y = y1 + height / side * (row + (i + 0.5) / samples) + dy
                x = x1 + width / side * (column + (j + 0.5) / samples) + dx
                out[image, n, :, row, column] += _bilinear(feature, y, x) / samples**2
    return out.flatten(0, 1)
