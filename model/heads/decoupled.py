"""Decoupled R-CNN's head: a classifier and a cascade of regressors that share no weight (DRCNN §IV-A)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model import losses
from model.config import HeadConfig
from model.heads.box_deltas import decode_rows
from model.heads.double_head import ConvRegressor
from model.heads.host import (
    Host,
    Refined,
    Regressed,
    Rois,
    class_probabilities,
    most_confident,
    positive_lists,
    positives_of,
    take,
    valid_boxes,
)
from model.heads.layers import Classifier, Regressor, output_layer
from model.heads.regressors import cascade_losses, refine_ragged
from model.sampling import ClassificationSample, sample_regression
from model.structures import Proposals, Target


class DecoupledHead(Host):
    """`classifier` scores raw proposals; `regressors[k]` corrects the boxes that stage k - 1 left."""

    denser_list = True

    def __init__(self, in_features: int, config: HeadConfig, num_classes: int) -> None:
        """`in_features`: those of a pooled RoI, ch * s * s with s = 7 where regressors are convolutional."""
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.classifier = Classifier(in_features, config.width, num_classes)
        self.regressors = nn.ModuleList(
            self._regressor(in_features, num_classes if config.class_specific_first and stage == 0 else 1)
            for stage in range(config.stages)
        )

    def _regressor(self, in_features: int, classes: int) -> nn.Module:
        if self.config.regressor == "conv":
            return ConvRegressor(in_features, classes, self.config.width)
        if self.config.share_trunk:
            return output_layer(self.config.width, 4 * classes, 0.001)
        return Regressor(in_features, self.config.width, classes)

    def classify(self, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> logits [N, C + 1], background last"""
        return self.classifier(pooled)  # type: ignore[no-any-return]

    def regress(self, stage: int, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> deltas [N, 4], or [N, 4 * C] at a class-specific first stage"""
        features = self.classifier.trunk(pooled) if self.config.share_trunk else pooled
        return self.regressors[stage](features)  # type: ignore[no-any-return]

    def losses(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> tuple[dict[str, Tensor], Regressed]:
        """DRCNN Eq. (8). `proposals`: the list for classification and the denser one for regression."""
        samples = self.sample(valid_boxes(proposals[0]), targets)
        pooled = rois.ragged([s.boxes for s in samples])
        labels = torch.cat([s.labels for s in samples])
        terms = {"cls": losses.cross_entropy(self.classify(pooled), labels)}
        terms |= self._box_losses(rois, valid_boxes(proposals[1]), targets, image_sizes)
        first_pooled = pooled[labels < self.num_classes].detach()
        return terms, self._carried(rois.detached(), samples, image_sizes, first_pooled)

    @torch.no_grad()
    def positives(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> Regressed:
        """Those of `losses` without their price: neither classifier nor denser list."""
        return self._carried(rois, self.sample(valid_boxes(proposals[0]), targets), image_sizes)

    def _carried(
        self,
        rois: Rois,
        samples: Sequence[ClassificationSample],
        image_sizes: Tensor,
        first_pooled: Tensor | None = None,
    ) -> Regressed:
        """What the localization head learns from: the classification sample's positives after all stages."""
        found, labels = positive_lists(samples, self.num_classes)
        boxes, sources = refine_ragged(
            self, self.config, rois.ragged, found, labels, image_sizes, first_pooled
        )
        return positives_of(samples, self.num_classes, boxes, sources)

    def _box_losses(
        self, rois: Rois, proposals: Sequence[Tensor], targets: Sequence[Target], image_sizes: Tensor
    ) -> dict[str, Tensor]:
        """The regressors' own sample, drawn from the denser list."""
        config = self.config
        drawn = [
            sample_regression(
                own, target, batch=config.regression_batch_per_image, positive_iou=config.positive_iou
            )
            for own, target in zip(proposals, targets, strict=True)
        ]
        boxes, truths, labels = (list(column) for column in zip(*drawn, strict=True))
        return cascade_losses(self, config, rois.ragged, boxes, truths, labels, targets, image_sizes)

    def refine(self, rois: Rois, proposals: Proposals, image_sizes: Tensor, looks: int | None) -> Refined:
        """DRCNN Eq. (7): each regressor reads the features of the box the one before it left.

        The classifier reads raw proposals, so those that will not be looked at again need no regression.
        """
        pooled = rois.fixed(proposals.boxes)
        scores = class_probabilities(self.classify(pooled), proposals.valid)
        rows = most_confident(scores, looks)
        scores = take(scores, rows)
        boxes = sources = take(proposals.boxes, rows)
        flat = take(pooled.reshape(*proposals.valid.shape, -1), rows)
        pooled = flat.reshape(-1, *pooled.shape[1:])
        for stage in range(self.config.stages):
            if stage > 0:
                pooled = rois.fixed(boxes)
            deltas = self.regress(stage, pooled).reshape(*boxes.shape[:2], -1)
            sources = boxes
            boxes = decode_rows(boxes, _of_best_class(deltas, scores), self.config, image_sizes, stage)
        return Refined(boxes, scores, sources)


def _of_best_class(deltas: Tensor, scores: Tensor) -> Tensor:
    """[B, D, 4 * C] -> [B, D, 4] of the best class of scores [B, D, C]; class-agnostic deltas as they are."""
    if deltas.shape[-1] == 4:
        return deltas
    best = scores.argmax(dim=-1)[..., None, None].expand(-1, -1, 1, 4)
    own: Tensor = deltas.unflatten(-1, (-1, 4)).gather(2, best).squeeze(2)
    return own
