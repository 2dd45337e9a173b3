"""Losses of the second stage: which boxes each part learns on is the papers' whole point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from model import boxes as box_ops
from model import losses
from model.heads.cascade import cascade_losses, deltas_of_class, refine_ragged
from model.heads.shared import SharedHead
from model.sampling import ClassificationSample, jitter_truths, sample_classification, sample_regression
from model.structures import Proposals, Target

if TYPE_CHECKING:
    from model.detector import TwoStageDetector


def second_stage_losses(
    detector: TwoStageDetector,
    pyramid: Sequence[Tensor],
    proposals: Sequence[Proposals],
    image_sizes: Tensor,
    targets: Sequence[Target],
) -> dict[str, Tensor]:
    """`proposals`: the list for classification and, for a decoupled head, the denser one for regression."""
    head_config, config = detector.config.head, detector.config
    samples = [
        sample_classification(
            proposals[0].boxes[i][proposals[0].valid[i]],
            target,
            batch=head_config.batch_per_image,
            positive_fraction=head_config.positive_fraction,
            positive_iou=head_config.positive_iou,
            background=config.num_classes,
        )
        for i, target in enumerate(targets)
    ]
    pooled = detector.pool_ragged(pyramid, [s.boxes for s in samples])
    labels = torch.cat([s.labels for s in samples])
    positive = labels < config.num_classes
    if isinstance(detector.head, SharedHead):
        logits, deltas = detector.head(pooled)
        terms = {"cls": losses.cross_entropy(logits, labels)}
        final = _shared_boxes(detector, samples, deltas, positive, labels, image_sizes, terms)
    else:
        terms = {"cls": losses.cross_entropy(detector.head.classify(pooled), labels)}
        terms |= _decoupled_box_losses(detector, pyramid, proposals[1], image_sizes, targets)
        final = _carried_boxes(detector, pyramid, samples, pooled, positive, image_sizes)
    if detector.localization is not None:
        terms |= _localization_losses(detector, pyramid, samples, final, targets, image_sizes)
    return terms


def _positives(sample: ClassificationSample, background: int) -> Tensor:
    return sample.labels < background


def _shared_boxes(
    detector: TwoStageDetector,
    samples: Sequence[ClassificationSample],
    deltas: Tensor,
    positive: Tensor,
    labels: Tensor,
    image_sizes: Tensor,
    terms: dict[str, Tensor],
) -> list[Tensor]:
    """Faster R-CNN: L1 over positives, divided by the whole sample. Returns the regressed positives."""
    config = detector.config
    weight = config.head.loss_weight if config.head.loss_weight is not None else 1.0
    boxes = torch.cat([s.boxes for s in samples])[positive]
    truths = torch.cat([s.truths for s in samples])[positive]
    own = deltas_of_class(deltas[positive], labels[positive])
    wished = box_ops.encode(boxes, truths, config.head.stds[0])
    terms["box_1"] = weight * losses.l1(own, wished, torch.ones_like(boxes[:, 0]), float(len(labels)))
    with torch.no_grad():
        decoded = box_ops.decode(boxes, own, config.head.stds[0])
        parts = decoded.split([int(_positives(s, config.num_classes).sum()) for s in samples])
        return [
            box_ops.clip(part[None], size[None])[0] for part, size in zip(parts, image_sizes, strict=True)
        ]


def _decoupled_box_losses(
    detector: TwoStageDetector,
    pyramid: Sequence[Tensor],
    proposals: Proposals,
    image_sizes: Tensor,
    targets: Sequence[Target],
) -> dict[str, Tensor]:
    """DRCNN: the regressors' own sample, drawn from the denser list."""
    head = detector.config.head
    drawn = [
        sample_regression(
            proposals.boxes[i][proposals.valid[i]],
            target,
            batch=head.regression_batch_per_image,
            positive_iou=head.positive_iou,
        )
        for i, target in enumerate(targets)
    ]
    boxes, truths, labels = (list(column) for column in zip(*drawn, strict=True))
    assert not isinstance(detector.head, SharedHead)
    return cascade_losses(
        detector.head,
        head,
        lambda lists: detector.pool_ragged(pyramid, lists),
        boxes,
        truths,
        labels,
        targets,
        image_sizes,
    )


def _carried_boxes(
    detector: TwoStageDetector,
    pyramid: Sequence[Tensor],
    samples: Sequence[ClassificationSample],
    pooled: Tensor,
    positive: Tensor,
    image_sizes: Tensor,
) -> list[Tensor]:
    """The classification sample's positives after all regressors: what the localization head sees later."""
    background = detector.config.num_classes
    boxes = [s.boxes[_positives(s, background)] for s in samples]
    labels = torch.cat([s.labels[_positives(s, background)] for s in samples])
    detached = [level.detach() for level in pyramid]
    assert not isinstance(detector.head, SharedHead)
    return refine_ragged(
        detector.head,
        detector.config.head,
        lambda lists: detector.pool_ragged(detached, lists),
        boxes,
        labels,
        image_sizes,
        first_pooled=pooled[positive].detach(),
    )


def _localization_losses(
    detector: TwoStageDetector,
    pyramid: Sequence[Tensor],
    samples: Sequence[ClassificationSample],
    final_boxes: Sequence[Tensor],
    targets: Sequence[Target],
    image_sizes: Tensor,
) -> dict[str, Tensor]:
    """DIR Eq. (9) on boxes regressed from positives (each keeps its truth) and on jittered truths."""
    config = detector.config.localization
    assert config is not None and detector.localization is not None
    background = detector.config.num_classes
    boxes, truths = [], []
    for sample, regressed, target, size in zip(samples, final_boxes, targets, image_sizes, strict=True):
        positive = _positives(sample, background)
        kept = torch.ones_like(positive) if config.use_truth_proposals else ~sample.from_truth
        jittered = jitter_truths(target.boxes, config.jitter_per_truth, config.jitter_min_iou, size)
        boxes.append(torch.cat([regressed[kept[positive]], jittered]))
        origins = target.boxes.repeat_interleave(config.jitter_per_truth, dim=0)
        truths.append(torch.cat([sample.truths[positive & kept], origins]))
    pooled = detector.pool_ragged(pyramid, boxes)
    terms = detector.localization.losses(pooled, torch.cat(boxes), torch.cat(truths))
    return {name: config.loss_weight * value for name, value in terms.items()}
