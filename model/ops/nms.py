"""Greedy non-maximum suppression over many groups at once. A keep mask: its shape is fixed."""

from __future__ import annotations

import torch
import torchvision
from jaxtyping import Bool, Float
from torch import Tensor

from model import boxes as box_ops


def batched_nms_torch(boxes: Tensor, scores: Tensor, threshold: Tensor) -> Tensor:
    """boxes [G, N, 4], scores [G, C, N], threshold [1] -> keep mask bool [G, C, N].

    Each (group, class) is suppressed on its own: best score first, a kept box removes those whose IoU with it
    exceeds `threshold`; of equal scores the lower index goes first. Rows with score -inf are absent. Scores
    may be logits.

    In torch: list after list, waiting for the device. On CUDA cuda.py takes its place.
    """
    keep = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    limit = float(threshold)
    present = scores > -torch.inf
    for g, c in torch.nonzero(present.any(dim=-1)).tolist():
        rows = torch.nonzero(present[g, c]).squeeze(1)
        # stable order first: torchvision's kernel sorts stably on CPU but promises nothing elsewhere
        rows = rows[torch.argsort(scores[g, c, rows], descending=True, stable=True)]
        rank = torch.arange(len(rows), 0, -1, device=boxes.device, dtype=torch.float32)
        kept = torchvision.ops.nms(boxes[g, rows].float(), rank, limit)
        keep[g, c, rows[kept]] = True
    return keep


batched_nms = torch.library.custom_op(
    "hindsight::batched_nms",
    batched_nms_torch,
    mutates_args=(),
    # spelled out: inferring it fails where annotations are checked, as under our tests
    schema="(Tensor boxes, Tensor scores, Tensor threshold) -> Tensor",
)


@batched_nms.register_fake
def _(boxes: Tensor, scores: Tensor, threshold: Tensor) -> Tensor:
    return torch.empty(scores.shape, dtype=torch.bool, device=scores.device)


def batched_nms_reference(
    boxes: Float[Tensor, "G N 4"], scores: Float[Tensor, "G C N"], threshold: float
) -> Bool[Tensor, "G C N"]:
    """The definition, one pair at a time."""
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for g in range(scores.shape[0]):
        iou = box_ops.pairwise_iou(boxes[g], boxes[g])
        for c in range(scores.shape[1]):
            order = sorted(range(scores.shape[2]), key=lambda i, row=scores[g, c]: (-float(row[i]), i))  # type: ignore[misc]
            kept: list[int] = []
            for i in order:
                if scores[g, c, i] > -torch.inf and all(iou[i, j] <= threshold for j in kept):
                    kept.append(i)
            keep[g, c, kept] = True
    return keep
