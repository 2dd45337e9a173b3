"""IoU-guided suppression (IoU-Net): the best located box stays, with the best class score around it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from model import boxes as box_ops
from model.ops.nms import batched_nms_torch


def iou_guided_nms_torch(
    boxes: Tensor, class_scores: Tensor, ious: Tensor, threshold: Tensor
) -> tuple[Tensor, Tensor]:
    """boxes [G, N, 4], class scores [G, C, N] (-inf = absent), predicted IoUs [G, N], threshold [1]
    -> keep mask bool [G, C, N], scores [G, C, N] (-inf where not kept).

    Each (group, class) on its own: the box of highest predicted IoU left is kept (of equal ones the lower
    index) and removes those whose IoU with it exceeds `threshold`; its score is the highest class score among
    itself and those it removes.

    The boxes kept are those of hard NMS ranked by predicted IoU, and a box goes to the best ranked of the
    kept boxes that overlap it: so one pass of NMS is enough, and the clusters follow from it.

    In torch: one pass of NMS and its clusters. On CUDA cuda.py takes its place.
    """
    groups, classes, count = class_scores.shape
    place = ious.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)  # [G, N], 0 = best
    ranked = torch.where(class_scores > -torch.inf, -place[:, None].float(), -torch.inf)
    keep = batched_nms_torch(boxes, ranked, threshold)
    g, c, n = keep.nonzero(as_tuple=True)  # P kept boxes
    inside = box_ops.pairwise_iou(boxes[g, n][:, None], boxes[g]).squeeze(1) > threshold  # [P, N]
    inside |= torch.arange(count, device=n.device) == n[:, None]  # itself, whatever its area
    claims = torch.where(inside, place[g, n][:, None], count)
    # place of each box's keeper; `count` where nobody kept it
    owner = torch.full((groups * classes, count), count, device=n.device)
    owner.scatter_reduce_(0, (g * classes + c)[:, None].expand_as(claims), claims, "amin")
    best = class_scores.new_full((groups, classes, count + 1), -torch.inf)
    best.scatter_reduce_(2, owner.reshape(class_scores.shape), class_scores, "amax")
    scores = best.gather(2, place[:, None].expand_as(class_scores))
    return keep, torch.where(keep, scores, -torch.inf).contiguous()


iou_guided_nms = torch.library.custom_op(
    "hindsight::iou_guided_nms",
    iou_guided_nms_torch,
    mutates_args=(),
    # spelled out: inferring it fails where annotations are checked, as under our tests
    schema="(Tensor boxes, Tensor class_scores, Tensor ious, Tensor threshold) -> (Tensor, Tensor)",
)


@iou_guided_nms.register_fake
def _(boxes: Tensor, class_scores: Tensor, ious: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    shape = class_scores.shape
    return class_scores.new_empty(shape, dtype=torch.bool), class_scores.new_empty(shape)


def iou_guided_nms_reference(
    boxes: Float[Tensor, "G N 4"],
    class_scores: Float[Tensor, "G C N"],
    ious: Float[Tensor, "G N"],
    threshold: float,
) -> tuple[Bool[Tensor, "G C N"], Float[Tensor, "G C N"]]:
    """The definition, one cluster at a time."""
    scores = torch.full_like(class_scores, -torch.inf)
    for g in range(class_scores.shape[0]):
        iou = box_ops.pairwise_iou(boxes[g], boxes[g])
        order = sorted(range(ious.shape[1]), key=lambda i, row=ious[g]: (-float(row[i]), i))  # type: ignore[misc]
        for c in range(class_scores.shape[1]):
            standing = [i for i in order if class_scores[g, c, i] > -torch.inf]
            while standing:
                best = standing[0]
                cluster = [i for i in standing if i == best or iou[best, i] > threshold]
                scores[g, c, best] = class_scores[g, c, cluster].max()
                standing = [i for i in standing if i not in cluster]
    return scores > -torch.inf, scores
