"""Boxes carried through cascaded regressors, stage by stage (DRCNN Eq. (7)), in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from model import boxes as box_ops
from model import losses
from model.config import HeadConfig
from model.heads.box_deltas import decode_lists, deltas_of_class
from model.structures import Target

Pool = Callable[[Sequence[Tensor]], Tensor]  # one list of boxes [n_i, 4] per image -> [sum n_i, ch, s, s]


@runtime_checkable
class Regressors(Protocol):
    """A chain of regressors."""

    def regress(self, stage: int, pooled: Tensor) -> Tensor:
        """Features [N, ch, s, s] of the boxes that the stage before left -> deltas [N, 4] or [N, 4 * C]."""
        ...


@torch.no_grad()
def refine_ragged(
    head: Regressors,
    config: HeadConfig,
    pool: Pool,
    boxes: Sequence[Tensor],
    labels: Tensor,
    image_sizes: Tensor,
    first_pooled: Tensor | None = None,
) -> tuple[list[Tensor], list[Tensor]]:
    """(boxes after all stages, what the last stage read) of each image, detached.

    `first_pooled`: the features of `boxes`, if at hand.
    """
    current = source = list(boxes)
    for stage in range(config.stages):
        source = current
        pooled = first_pooled if stage == 0 and first_pooled is not None else pool(current)
        deltas = deltas_of_class(head.regress(stage, pooled), labels)
        current = decode_lists(current, deltas, config, image_sizes, stage)
    return current, source


def cascade_losses(
    head: Regressors,
    config: HeadConfig,
    pool: Pool,
    boxes: Sequence[Tensor],
    truths: Sequence[Tensor],
    labels: Sequence[Tensor],
    targets: Sequence[Target],
    image_sizes: Tensor,
) -> dict[str, Tensor]:
    """DRCNN Eq. (7): stage k learns on the boxes that stage k - 1 regressed, assigned anew at the same IoU.

    Boxes that fall below it get zero weight. The terms are those of DRCNN Eq. (8), lambda included,
    normalised by the padded mini-batch, `regression_batch_per_image` per image.
    """
    weight = config.loss_weight if config.loss_weight is not None else (0.5 if config.stages > 1 else 1.0)
    denominator = float(config.regression_batch_per_image * len(boxes))
    current, current_truths, current_labels = list(boxes), list(truths), list(labels)
    weights = torch.ones(sum(len(b) for b in boxes), device=image_sizes.device)
    terms = {}
    for stage in range(config.stages):
        if stage > 0:
            current_truths, current_labels, weights = _reassign(current, targets, config.positive_iou)
        flat_boxes, flat_truths = torch.cat(current), torch.cat(current_truths)
        deltas = deltas_of_class(head.regress(stage, pool(current)), torch.cat(current_labels))
        wished = box_ops.encode(flat_boxes, flat_truths, config.stds[stage])
        # a ground truth that ties with nothing has weight 0; its wished deltas are finite all the same
        factor = weight * config.stage_weights[stage]
        terms[f"box_{stage + 1}"] = factor * losses.l1(deltas, wished, weights, denominator)
        current = decode_lists(current, deltas, config, image_sizes, stage)
    return terms


def _reassign(
    boxes: Sequence[Tensor], targets: Sequence[Target], positive_iou: float
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Best ground truth of every box, and weight 1 where its IoU reaches `positive_iou`, else 0."""
    truths, labels, weights = [], [], []
    for part, target in zip(boxes, targets, strict=True):
        if not len(part):
            truths.append(part)
            labels.append(part.new_zeros(0, dtype=torch.long))
            weights.append(part.new_zeros(0))
            continue
        best_iou, best = box_ops.pairwise_iou(part, target.boxes).max(dim=1)
        truths.append(target.boxes[best])
        labels.append(target.labels[best])
        weights.append((best_iou >= positive_iou).to(part.dtype))
    return truths, labels, torch.cat(weights)
