"""Which boxes learn what: matching to ground truth, and DRCNN's two decoupled samples, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model import boxes as box_ops
from model.structures import Target

NEGATIVE = -1
IGNORED = -2


def match(
    boxes: Float[Tensor, "N 4"], target: Target, positive_iou: float, negative_iou: float, *, rescue: bool
) -> Int[Tensor, " N"]:
    """Index of the matched ground truth, NEGATIVE, or IGNORED (between thresholds, or mostly in a crowd).

    A box is positive from `positive_iou` on: DRCNN Eq. (5), with the released code's >= for the paper's >.
    `rescue` also matches every ground truth to the boxes that fit it best, however badly (RPN).
    """
    matched = boxes.new_full((len(boxes),), NEGATIVE, dtype=torch.long)
    if len(target.boxes):
        iou = box_ops.pairwise_iou(boxes, target.boxes)
        best_iou, best = iou.max(dim=1)
        matched = torch.where(best_iou >= negative_iou, IGNORED, matched)
        matched = torch.where(best_iou >= positive_iou, best, matched)
        if rescue:
            best_of_truth = iou.amax(dim=0, keepdim=True)
            rescued = ((iou == best_of_truth) & (best_of_truth > 0)).any(dim=1)
            matched = torch.where(rescued, best, matched)
    if len(target.crowd_boxes):
        overlap = box_ops.pairwise_intersection(boxes, target.crowd_boxes)
        inside = overlap / box_ops.area(boxes)[:, None].clamp(min=1e-9)
        matched = torch.where((matched == NEGATIVE) & (inside.amax(dim=1) > 0.5), IGNORED, matched)
    return matched


def pick(rows: Int[Tensor, " n"], count: int) -> Int[Tensor, " m"]:
    """At most `count` of `rows`, at random."""
    if len(rows) <= count:
        return rows
    return rows[torch.randperm(len(rows), device=rows.device)[:count]]


@dataclass(frozen=True)
class ClassificationSample:
    """S boxes of one image: `labels` [S], C = background.

    `truths` [S, 4] and `objects` [S], the ground truth's box and its index, are meaningful where positive.
    """

    boxes: Float[Tensor, "S 4"]
    labels: Int[Tensor, " S"]
    truths: Float[Tensor, "S 4"]
    from_truth: Tensor  # bool [S]: the box is a ground truth added as a proposal
    objects: Int[Tensor, " S"]


def sample_classification(
    proposals: Float[Tensor, "N 4"],
    target: Target,
    *,
    batch: int,
    positive_fraction: float,
    positive_iou: float,
    background: int,
) -> ClassificationSample:
    """DRCNN §IV-A: `batch` boxes, at most `positive_fraction` of them positive, ground truth added."""
    boxes = torch.cat([proposals, target.boxes])
    added = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    added[len(proposals) :] = True
    matched = match(boxes, target, positive_iou, positive_iou, rescue=False)
    positive = pick(torch.nonzero(matched >= 0).squeeze(1), int(batch * positive_fraction))
    negative = pick(torch.nonzero(matched == NEGATIVE).squeeze(1), batch - len(positive))
    rows = torch.cat([positive, negative])
    labels = torch.full_like(rows, background)
    truths = boxes.new_zeros(len(rows), 4)
    if len(positive):
        labels[: len(positive)] = target.labels[matched[positive]]
        truths[: len(positive)] = target.boxes[matched[positive]]
    return ClassificationSample(boxes[rows], labels, truths, added[rows], matched[rows])


def sample_regression(
    proposals: Float[Tensor, "N 4"], target: Target, *, batch: int, positive_iou: float
) -> tuple[Float[Tensor, "P 4"], Float[Tensor, "P 4"], Int[Tensor, " P"]]:
    """DRCNN §IV-A: up to `batch` positives of the denser list, truth NOT added -> (boxes, truths, labels).

    DRCNN §V-B pads to `batch` with negatives of zero weight; they cost time and teach nothing, so they are
    left out here and only counted in the loss's denominator.
    """
    matched = match(proposals, target, positive_iou, positive_iou, rescue=False)
    rows = pick(torch.nonzero(matched >= 0).squeeze(1), batch)
    if not len(rows):
        return proposals[:0], proposals[:0], matched[:0]
    return proposals[rows], target.boxes[matched[rows]], target.labels[matched[rows]]


def jitter_truths(truths: Float[Tensor, "g 4"], copies: int, min_iou: float, image_size: Tensor) -> Tensor:
    """[g * copies, 4]: each ground truth shifted and scaled so that its IoU spreads over min_iou..1 [ours].

    A random direction in (dx, dy, log w, log h) is followed to a random length by bisection on the IoU wished
    for: arbitrary boxes, as /rescore gets, not only those that a regressor produced.
    """
    base = truths.repeat_interleave(copies, dim=0)
    if not len(base):
        return base
    wished = torch.rand(len(base), device=base.device) * (1 - min_iou) + min_iou
    direction = torch.randn(len(base), 4, device=base.device)
    # some boxes move along one axis only, so that purity and integrity part ways: a cut object, a loose box
    direction = torch.where(torch.rand_like(direction) < 0.4, 0.0, direction)
    low, high = torch.zeros_like(wished), torch.full_like(wished, 2.0)
    for _ in range(12):
        middle = (low + high) / 2
        moved = box_ops.decode(base, direction * middle[:, None], (1.0, 1.0, 1.0, 1.0))
        iou = box_ops.paired_quality(moved, base)[0]
        low = torch.where(iou > wished, middle, low)
        high = torch.where(iou > wished, high, middle)
    moved = box_ops.decode(base, direction * low[:, None], (1.0, 1.0, 1.0, 1.0))
    return box_ops.clip(moved[None], image_size[None])[0]
