"""Box arithmetic. Boxes are float32 xyxy; functions broadcast over leading axes unless they say otherwise."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Largest log-scale step a regressor may ask for: a 16 px box may become 1000 px in one step, as in the
# reference detectors.
MAX_LOG_SCALE = math.log(1000.0 / 16)


def area(boxes: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N"]:
    """Area in square pixels; inverted boxes count as empty."""
    wh = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)
    return wh[..., 0] * wh[..., 1]


def paired_intersection(a: Float[Tensor, "*#N 4"], b: Float[Tensor, "*#N 4"]) -> Float[Tensor, "*#N"]:
    """Overlap of a[i] with b[i], in square pixels; leading axes broadcast."""
    top_left = torch.maximum(a[..., :2], b[..., :2])
    bottom_right = torch.minimum(a[..., 2:], b[..., 2:])
    wh = (bottom_right - top_left).clamp(min=0)
    return wh[..., 0] * wh[..., 1]


def pairwise_intersection(a: Float[Tensor, "*B N 4"], b: Float[Tensor, "*B M 4"]) -> Float[Tensor, "*B N M"]:
    """Overlap of every a with every b, in square pixels."""
    return paired_intersection(a.unsqueeze(-2), b.unsqueeze(-3))


def pairwise_iou(a: Float[Tensor, "*B N 4"], b: Float[Tensor, "*B M 4"]) -> Float[Tensor, "*B N M"]:
    """IoU of every a with every b (DIR Eq. (1)); 0 where both are empty."""
    overlap = pairwise_intersection(a, b)
    union = area(a).unsqueeze(-1) + area(b).unsqueeze(-2) - overlap
    return overlap / union.clamp(min=1e-9)


def paired_quality(
    boxes: Float[Tensor, "*N 4"], truths: Float[Tensor, "*N 4"]
) -> tuple[Float[Tensor, "*N"], Float[Tensor, "*N"], Float[Tensor, "*N"]]:
    """(IoU, purity, integrity) of boxes[i] against truths[i]; empty boxes give 0.

    DIR Eq. (1), DIR Eq. (3), DIR Eq. (4).
    """
    overlap = paired_intersection(boxes, truths)
    box_area, truth_area = area(boxes), area(truths)
    union = (box_area + truth_area - overlap).clamp(min=1e-9)
    purity = overlap / box_area.clamp(min=1e-9)
    integrity = overlap / truth_area.clamp(min=1e-9)
    return (overlap / union).clamp(max=1), purity.clamp(max=1), integrity.clamp(max=1)


def encode(
    boxes: Float[Tensor, "*N 4"], truths: Float[Tensor, "*N 4"], stds: tuple[float, float, float, float]
) -> Float[Tensor, "*N 4"]:
    """Deltas (dx, dy, dw, dh) / stds that carry `boxes` onto `truths`."""
    box_wh = (boxes[..., 2:] - boxes[..., :2]).clamp(min=1e-6)
    truth_wh = (truths[..., 2:] - truths[..., :2]).clamp(min=1e-6)
    box_centre = boxes[..., :2] + 0.5 * box_wh
    truth_centre = truths[..., :2] + 0.5 * truth_wh
    deltas = torch.cat([(truth_centre - box_centre) / box_wh, torch.log(truth_wh / box_wh)], dim=-1)
    return deltas / deltas.new_tensor(stds)


def decode(
    boxes: Float[Tensor, "*N 4"],
    deltas: Float[Tensor, "*N 4"],
    stds: tuple[float, float, float, float],
    *,
    shrink_limited: bool = False,
) -> Float[Tensor, "*N 4"]:
    """Apply deltas * stds to boxes; the inverse of `encode` within MAX_LOG_SCALE. Computed in float32.

    `shrink_limited`: a box may shrink in one step no more than it may grow, as in mmdetection.
    """
    boxes, deltas = boxes.float(), deltas.float()
    wh = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * wh
    shift = _times(deltas[..., :2], stds[0], stds[1])
    log_scale = _times(deltas[..., 2:], stds[2], stds[3]).clamp(
        min=-MAX_LOG_SCALE if shrink_limited else None, max=MAX_LOG_SCALE
    )
    new_centre = centre + shift * wh
    half = 0.5 * torch.exp(log_scale) * wh
    return torch.cat([new_centre - half, new_centre + half], dim=-1)


def _times(pairs: Float[Tensor, "*N 2"], x: float, y: float) -> Float[Tensor, "*N 2"]:
    """As kernels' arguments: a tensor of x and y would be copied to the device, which no CUDA graph can."""
    return pairs * x if x == y else torch.cat([pairs[..., :1] * x, pairs[..., 1:] * y], dim=-1)


def clip(boxes: Float[Tensor, "B *N 4"], image_sizes: Int[Tensor, "B 2"]) -> Float[Tensor, "B *N 4"]:
    """Cut boxes at their image's valid area (0..width, 0..height)."""
    hw = image_sizes.to(boxes.dtype)
    limits = torch.stack([hw[:, 1], hw[:, 0], hw[:, 1], hw[:, 0]], dim=-1)
    limits = limits.reshape(limits.shape[0], *([1] * (boxes.dim() - 2)), 4)
    return torch.minimum(boxes.clamp(min=0), limits)


def is_small(boxes: Float[Tensor, "*N 4"], min_side: float) -> Tensor:
    """True where a side is below `min_side` pixels."""
    wh = boxes[..., 2:] - boxes[..., :2]
    return (wh < min_side).any(dim=-1)
