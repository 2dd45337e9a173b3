"""Which candidates are reported, and with what score: every kind of NMS, behind one function.

Class-wise by default. With `class_agnostic` each (row, class) pair that passes the thresholds competes with
all others, as in mmdetection; a row's own classes overlap fully, so at a threshold below 1 hard suppression
reports each row at most once, with its best class.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import DetectorConfig
from model.localization import fuse
from model.ops import batched_nms, iou_guided_nms, soft_nms
from model.structures import Candidates


def suppress(
    candidates: Candidates,
    alive: Tensor,
    score_threshold: Tensor,
    iou_weight: Tensor,
    nms_threshold: Tensor,
    config: DetectorConfig,
) -> Tensor:
    """Reported scores [B, C, D], -inf where not reported. `alive` [B, D, C] masks who may compete.

    score_threshold, iou_weight [B]; nms_threshold [1].
    """
    if config.nms.kind == "iou_guided":
        final = _iou_guided(candidates, alive, iou_weight, nms_threshold, config.nms.class_agnostic)
    else:
        # a box below the threshold cannot touch one above it: leaving it out first only saves work
        fused = _fused(candidates, iou_weight)
        ranked = torch.where(alive & (fused > score_threshold[:, None, None]), fused, -torch.inf)
        final = _by_score(candidates.boxes, ranked.transpose(1, 2), nms_threshold, config)
    return torch.where(final > score_threshold[:, None, None], final, -torch.inf)


def _fused(candidates: Candidates, iou_weight: Tensor) -> Tensor:
    if candidates.ious is None:
        return candidates.class_scores
    return fuse(candidates.class_scores, candidates.ious, iou_weight)


def _by_score(boxes: Tensor, scores: Tensor, nms_threshold: Tensor, config: DetectorConfig) -> Tensor:
    """Hard or soft suppression, best score [B, C, D] first. Hard by the fused score is DIR-NMS (DIR §3.4)."""
    nms = config.nms
    groups, lists = _lists(boxes, scores, nms.class_agnostic)
    if nms.kind == "hard":
        final = torch.where(batched_nms(groups, lists, nms_threshold), lists, -torch.inf)
    else:
        method = nms.kind.removeprefix("soft_")
        # scores fall from pick to pick, so no list has more than max_detections of the best of them all
        final = soft_nms(
            groups, lists, nms_threshold, method, nms.sigma, nms.min_score, config.max_detections
        )
    return final.reshape(scores.shape)


def _lists(boxes: Tensor, scores: Tensor, class_agnostic: bool) -> tuple[Tensor, Tensor]:
    """What the operators take: boxes [G, N, 4], scores [G, *, N]; one list for each that is suppressed."""
    per_class = boxes.dim() == 4  # class-specific regression
    if class_agnostic:
        shape = (*scores.shape, 4)
        pairs = boxes.transpose(1, 2) if per_class else boxes[:, None].expand(shape)
        return pairs.flatten(1, 2), scores.flatten(1)[:, None]
    if per_class:
        return boxes.transpose(1, 2).flatten(0, 1), scores.flatten(0, 1)[:, None]
    return boxes, scores


def _iou_guided(
    candidates: Candidates, alive: Tensor, iou_weight: Tensor, nms_threshold: Tensor, class_agnostic: bool
) -> Tensor:
    """IoU-Net's clusters. A kept box's class score is its cluster's best, fused with its own predicted IoU.

    iou_weight = 0 is IoU-Net's score, the class score alone. Agnostic: every class has the same clusters,
    and a kept box is reported as the best class of its cluster.
    """
    assert candidates.ious is not None  # the config saw to it
    scores = torch.where(alive, candidates.class_scores, -torch.inf)
    if class_agnostic:
        some_class = alive.any(dim=-1, keepdim=True)
        scores = torch.where(some_class & ~alive, 0.0, scores)
    keep, best = iou_guided_nms(candidates.boxes, scores.transpose(1, 2), candidates.ious, nms_threshold)
    if class_agnostic:
        classes = torch.arange(best.shape[1], device=best.device)
        keep = keep & (classes[None, :, None] == best.argmax(dim=1, keepdim=True))
    class_scores = torch.where(keep, best, 0.0).transpose(1, 2)
    return torch.where(keep, fuse(class_scores, candidates.ious, iou_weight).transpose(1, 2), -torch.inf)
