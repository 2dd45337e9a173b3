"""Soft-NMS over many groups at once: overlapping boxes lose score instead of place. Fixed shapes."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from model import boxes as box_ops

METHODS = ("linear", "gaussian")


def soft_nms_torch(
    boxes: Tensor,
    scores: Tensor,
    threshold: Tensor,
    method: str,
    sigma: float,
    min_score: float,
    steps: int,
) -> Tensor:
    """boxes [G, N, 4], scores [G, C, N] in 0..1, threshold [1] -> decayed scores [G, C, N], -inf = dropped.

    Each (group, class) on its own, `steps` times: the box of best score left is picked and keeps that score
    (of equal scores the lower index goes first); the score of each box not picked yet is multiplied by
        linear:   1 - IoU where the IoU with the picked box exceeds `threshold`, else 1
        gaussian: exp(-IoU^2 / sigma); `threshold` is not read
    and the box is dropped once its score is below `min_score`. Rows with score -inf are absent.

    Boxes not picked within `steps` are dropped too. No box is picked with a higher score than one before it,
    so whoever wants the best K of all classes together loses nothing with steps = K.
    Raises ValueError for an unknown method.

    In torch: a step for all lists at once. On CUDA cuda.py takes its place.
    """
    check_method(method)
    picked = torch.full(scores.shape, -torch.inf, device=scores.device, dtype=scores.dtype)
    count = scores.shape[-1]
    if count == 0:
        return picked
    areas = box_ops.area(boxes)[:, None]
    left = torch.where(scores >= min_score, scores, -torch.inf)
    for _ in range(min(steps, count)):
        score, best = left.max(dim=-1, keepdim=True)  # [G, C, 1]; the first of equal ones
        if score.device.type == "cpu" and not bool((score > -torch.inf).any()):
            break
        # where nothing is left the score is -inf, which changes nothing
        picked.scatter_reduce_(-1, best, score, "amax")
        best_boxes = boxes.gather(1, best.expand(-1, -1, 4))
        overlap = box_ops.paired_intersection(best_boxes[:, :, None], boxes[:, None])  # [G, C, N]
        union = box_ops.area(best_boxes)[..., None] + areas - overlap
        iou = overlap / union.clamp(min=1e-9)
        decayed = left * _decay(iou, threshold, method, sigma)
        # -inf * 0 is no number, and no number is >= min_score
        left = torch.where(decayed >= min_score, decayed, -torch.inf).scatter(-1, best, -torch.inf)
    return picked


soft_nms = torch.library.custom_op(
    "hindsight::soft_nms",
    soft_nms_torch,
    mutates_args=(),
    # spelled out: inferring it fails where annotations are checked, as under our tests
    schema=(
        "(Tensor boxes, Tensor scores, Tensor threshold, str method, float sigma, float min_score, int steps)"
        " -> Tensor"
    ),
)


@soft_nms.register_fake
def _(boxes: Tensor, scores: Tensor, *_: Any) -> Tensor:
    return scores.new_empty(scores.shape)


def check_method(method: str) -> None:
    """Raises ValueError for a method we lack."""
    if method not in METHODS:
        raise ValueError(f"method must be {' or '.join(METHODS)}, got {method!r}")


def _decay(iou: Tensor, threshold: Tensor, method: str, sigma: float) -> Tensor:
    if method == "linear":
        return torch.where(iou > threshold, 1 - iou, 1.0)
    return torch.exp(-(iou * iou) / sigma)


def soft_nms_reference(
    boxes: Float[Tensor, "G N 4"],
    scores: Float[Tensor, "G C N"],
    threshold: float,
    method: str,
    sigma: float,
    min_score: float,
    steps: int,
) -> Float[Tensor, "G C N"]:
    """The definition, a pair of boxes at a time; in float32 like the operator: ties hang on rounding."""
    check_method(method)
    result = torch.full_like(scores, -torch.inf)
    limit = torch.tensor(threshold)
    for g in range(scores.shape[0]):
        iou = box_ops.pairwise_iou(boxes[g], boxes[g])
        for c in range(scores.shape[1]):
            left = {i: score for i, score in enumerate(scores[g, c]) if score >= min_score}
            for _ in range(steps):
                if not left:
                    break
                best = max(left, key=lambda i, left=left: (float(left[i]), -i))  # type: ignore[misc]
                result[g, c, best] = left.pop(best)
                decayed = {i: left[i] * _decay(iou[best, i], limit, method, sigma) for i in left}
                left = {i: score for i, score in decayed.items() if score >= min_score}
    return result
