"""Faster R-CNN's head: one trunk of two fully connected layers for both tasks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model import boxes as box_ops
from model import losses
from model.config import HeadConfig
from model.heads.host import (
    Host,
    Refined,
    Regressed,
    Rois,
    class_probabilities,
    decode_rows,
    most_confident,
    positives_of,
    take,
    valid_boxes,
)
from model.heads.layers import TwoFC, output_layer
from model.heads.regressors import clip_lists, deltas_of_class, split_like
from model.structures import Proposals, Target


class SharedHead(Host):
    """One trunk, C + 1 logits (background last) and deltas."""

    def __init__(self, in_features: int, config: HeadConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.trunk = TwoFC(in_features, config.width)
        self.logits = output_layer(config.width, num_classes + 1, 0.01)
        self.deltas = output_layer(config.width, 4 * num_classes if config.class_specific_first else 4, 0.001)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[N, ch, s, s] -> logits [N, C + 1], deltas [N, 4] or [N, 4 * C]"""
        hidden = self.trunk(pooled)
        return self.logits(hidden), self.deltas(hidden)

    def classify(self, pooled: Tensor) -> Tensor:
        """Logits alone, for boxes that need no regression."""
        return self.logits(self.trunk(pooled))  # type: ignore[no-any-return]

    def losses(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> tuple[dict[str, Tensor], Regressed]:
        """Cross-entropy over the sample; L1 over its positives, divided by the whole sample."""
        samples = self.sample(valid_boxes(proposals[0]), targets)
        labels = torch.cat([s.labels for s in samples])
        positive = labels < self.num_classes
        logits, deltas = self(rois.ragged([s.boxes for s in samples]))
        own = deltas_of_class(deltas[positive], labels[positive])
        sources = [s.boxes[s.labels < self.num_classes] for s in samples]
        boxes, truths = torch.cat(sources), torch.cat([s.truths for s in samples])[positive]
        wished = box_ops.encode(boxes, truths, self.config.stds[0])
        weight = self.config.loss_weight if self.config.loss_weight is not None else 1.0
        terms = {
            "cls": losses.cross_entropy(logits, labels),
            "box_1": weight * losses.l1(own, wished, torch.ones_like(boxes[:, 0]), float(len(labels))),
        }
        with torch.no_grad():
            decoded = split_like(box_ops.decode(boxes, own, self.config.stds[0]), sources)
        return terms, positives_of(samples, self.num_classes, clip_lists(decoded, image_sizes), sources)

    def refine(self, rois: Rois, proposals: Proposals, image_sizes: Tensor, looks: int | None) -> Refined:
        """Both outputs read the proposal's features."""
        logits, deltas = self(rois.fixed(proposals.boxes))
        scores = class_probabilities(logits, proposals.valid)
        rows = most_confident(scores, looks)
        sources = take(proposals.boxes, rows)
        deltas = take(deltas.reshape(*proposals.valid.shape, -1), rows)
        boxes = decode_rows(sources, deltas, self.config.stds[0], image_sizes)
        return Refined(boxes, take(scores, rows), sources)
