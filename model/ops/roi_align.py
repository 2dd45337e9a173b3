"""Multi-level RoI-Align: every box is pooled from the one pyramid level that suits its size.

`multilevel_roi_align` is the inference operator (a torch.library op, so that export carries it as one node);
`pool_ragged` is its differentiable twin for training, over a list of boxes per image;
`multilevel_roi_align_reference` is the slow one that the others are tested against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from jaxtyping import Float, Int
from torch import Tensor

CANONICAL_LEVEL = 4  # FPN paper: a box of CANONICAL_SIDE pixels is pooled from the stride-16 map
CANONICAL_SIDE = 224.0


def roi_levels(boxes: Float[Tensor, "*N 4"], strides: Sequence[int]) -> Int[Tensor, "*N"]:
    """Index into `strides` of each box's level: floor(4 + log2(sqrt(area) / 224)), kept in range."""
    wh = boxes[..., 2:] - boxes[..., :2]
    side = (wh[..., 0] * wh[..., 1]).clamp(min=0).sqrt()
    # clamp before the log: an empty box belongs to the finest level, not to log(0)
    level = torch.floor(CANONICAL_LEVEL + torch.log2(side.clamp(min=1e-8) / CANONICAL_SIDE) + 1e-6)
    lowest, highest = int(math.log2(strides[0])), int(math.log2(strides[-1]))
    return level.clamp(lowest, highest).long() - lowest


def _pool(
    features: Sequence[Tensor],
    rois: Float[Tensor, "M 5"],
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "M ch s s"]:
    """rois are (image index, x1, y1, x2, y2). Pools level by level, then restores the order of the rois."""
    levels = roi_levels(rois[:, 1:], strides)
    pooled, order = [], []
    for index, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        rows = torch.nonzero(levels == index).squeeze(1)
        order.append(rows)
        pooled.append(
            torchvision.ops.roi_align(
                feature.float(), rois[rows], output_size, 1.0 / stride, sampling_ratio, aligned=aligned
            )
        )
    inverse = torch.argsort(torch.cat(order))
    return torch.cat(pooled)[inverse]


def pooled_dtype(features: Sequence[Tensor]) -> torch.dtype:
    """What RoI features come in: the maps' own type where all are float16 or all bfloat16, else float32."""
    (first, *others) = {feature.dtype for feature in features}
    return first if first in (torch.float16, torch.bfloat16) and not others else torch.float32


def multilevel_roi_align_torch(
    features: Sequence[Tensor],
    rois: Tensor,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """features: L maps [B, ch, h, w]; rois [B, N, 4] xyxy input pixels -> [B * N, ch, s, s] in
    `pooled_dtype`.

    Sums are float32 whatever the maps are. What reads the result under autocast would narrow it anyway:
    written narrow it is half the traffic. sampling_ratio 0 takes ceil(bin side) samples per bin and axis, as
    mmdetection does.

    In torch: level after level, waiting for the device. On CUDA cuda.py takes its place.
    """
    batch, count = rois.shape[:2]
    index = torch.arange(batch, device=rois.device, dtype=torch.float32).repeat_interleave(count)
    flat = torch.cat([index[:, None], rois.reshape(-1, 4).float()], dim=1)
    return _pool(features, flat, strides, output_size, sampling_ratio, aligned).to(pooled_dtype(features))


multilevel_roi_align = torch.library.custom_op(
    "hindsight::multilevel_roi_align",
    multilevel_roi_align_torch,
    mutates_args=(),
    # spelled out: inferring it fails where annotations are checked, as under our tests
    schema=(
        "(Tensor[] features, Tensor rois, SymInt[] strides, SymInt output_size, SymInt sampling_ratio, "
        "bool aligned) -> Tensor"
    ),
)


@multilevel_roi_align.register_fake
def _(features: Sequence[Tensor], rois: Tensor, strides: Sequence[int], output_size: int, *_: Any) -> Tensor:
    shape = (rois.shape[0] * rois.shape[1], features[0].shape[1], output_size, output_size)
    return rois.new_empty(shape, dtype=pooled_dtype(features))


def pool_ragged(
    features: Sequence[Tensor],
    boxes: Sequence[Float[Tensor, "_ 4"]],
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Float[Tensor, "M ch s s"]:
    """One list of boxes per image -> features of all, image after image; differentiable in `features`.

    float32 whatever the maps are: half a training step's gradients would be summed in a narrow type.
    """
    index = [b.new_full((len(b), 1), float(i)) for i, b in enumerate(boxes)]
    rois = torch.cat([torch.cat(index), torch.cat(list(boxes))], dim=1)
    return _pool(features, rois, strides, output_size, sampling_ratio, aligned)


def _bilinear(feature: Tensor, y: float, x: float) -> Tensor:
    """Value of feature [ch, h, w] at (y, x): zero farther than one pixel outside, edge values within that."""
    height, width = feature.shape[-2:]
    if y < -1 or y > height or x < -1 or x > width:
        return feature.new_zeros(feature.shape[0])
    y, x = max(y, 0.0), max(x, 0.0)
    y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    wy, wx = (y - y0 if y0 < height - 1 else 0.0), (x - x0 if x0 < width - 1 else 0.0)
    top = feature[:, y0, x0] * (1 - wx) + feature[:, y0, x1] * wx
    bottom = feature[:, y1, x0] * (1 - wx) + feature[:, y1, x1] * wx
    return top * (1 - wy) + bottom * wy


def _reference_bins(
    feature: Tensor, box: list[float], stride: int, output_size: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    offset = 0.5 if aligned else 0.0
    x1, y1, x2, y2 = (v / stride - offset for v in box)
    width, height = x2 - x1, y2 - y1
    if not aligned:  # the original RoI-Align never pools less than one feature pixel
        width, height = max(width, 1.0), max(height, 1.0)
    bin_h, bin_w = height / output_size, width / output_size
    samples_y = sampling_ratio if sampling_ratio > 0 else max(math.ceil(bin_h), 0)
    samples_x = sampling_ratio if sampling_ratio > 0 else max(math.ceil(bin_w), 0)
    out = feature.new_zeros(feature.shape[0], output_size, output_size)
    for row in range(output_size):
        for col in range(output_size):
            for iy in range(samples_y):
                for ix in range(samples_x):
                    y = y1 + bin_h * (row + (iy + 0.5) / samples_y)
                    x = x1 + bin_w * (col + (ix + 0.5) / samples_x)
                    out[:, row, col] += _bilinear(feature, y, x)
    return out / max(samples_y * samples_x, 1)


def multilevel_roi_align_reference(
    features: Sequence[Tensor],
    rois: Tensor,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The definition, one sample at a time. Shapes as `multilevel_roi_align`."""
    levels = roi_levels(rois, strides)
    rows = []
    for image in range(rois.shape[0]):
        for n in range(rois.shape[1]):
            level = int(levels[image, n])
            box = rois[image, n].tolist()
            rows.append(
                _reference_bins(
                    features[level][image], box, strides[level], output_size, sampling_ratio, aligned
                )
            )
    return torch.stack(rows) if rows else rois.new_zeros(0, features[0].shape[1], output_size, output_size)
