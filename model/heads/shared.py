"""Faster R-CNN's head: one trunk for both tasks, of fully connected layers or with convolutions below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model import losses
from model.config import HeadConfig
from model.heads.box_deltas import box_loss, decode_lists, decode_rows, deltas_of_class
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
from model.heads.layers import ConvFC, TwoFC, output_layer
from model.structures import Proposals, Target


class SharedHead(Host):
    """One trunk, C + 1 logits (background last) and deltas."""

    def __init__(self, in_features: int, config: HeadConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        self.trunk: nn.Module = (
            ConvFC(in_features, config.convs, config.width)
            if config.convs
            else TwoFC(in_features, config.width)
        )
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
        terms = {
            "cls": losses.cross_entropy(logits, labels),
            "box_1": box_loss(boxes, own, truths, self.config, float(len(labels))),
        }
        final = decode_lists(sources, own, self.config, image_sizes)
        return terms, positives_of(samples, self.num_classes, final, sources)

    @torch.no_grad()
    def positives(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> Regressed:
        """Those of `losses` without their price: only positives pass through the trunk."""
        samples = self.sample(valid_boxes(proposals[0]), targets)
        sources, labels = positive_lists(samples, self.num_classes)
        own = deltas_of_class(self(rois.ragged(sources))[1], labels)
        final = decode_lists(sources, own, self.config, image_sizes)
        return positives_of(samples, self.num_classes, final, sources)

    def refine(self, rois: Rois, proposals: Proposals, image_sizes: Tensor, looks: int | None) -> Refined:
        """Both outputs read the proposal's features."""
        logits, deltas = self(rois.fixed(proposals.boxes))
        scores = class_probabilities(logits, proposals.valid)
        deltas = deltas.reshape(*proposals.valid.shape, -1)
        if looks is not None and self.config.class_specific_first:
            return self._best_pairs(proposals, scores, deltas, image_sizes, looks)
        rows = most_confident(scores, looks)
        sources = take(proposals.boxes, rows)
        boxes = decode_rows(sources, take(deltas, rows), self.config, image_sizes)
        return Refined(boxes, take(scores, rows), sources)

    def _best_pairs(
        self, proposals: Proposals, scores: Tensor, deltas: Tensor, image_sizes: Tensor, looks: int
    ) -> Refined:
        """One box a row where each class has its own: the `looks` best (proposal, class) pairs.

        scores [B, R, C], deltas [B, R, 4 * C]. A row's class scores are zero but for its own class, so the
        detections are those of all R * C boxes, as long as at most `looks` of these pass the class threshold.
        """
        classes = scores.shape[-1]
        best, pairs = scores.flatten(1).topk(min(looks, scores.shape[1] * classes), dim=1)
        rows, labels = pairs // classes, pairs % classes
        sources = take(proposals.boxes, rows)
        deltas = take(deltas.unflatten(-1, (-1, 4)).flatten(1, 2), pairs)
        boxes = decode_rows(sources, deltas, self.config, image_sizes)
        own = labels[..., None] == torch.arange(classes, device=labels.device)
        return Refined(boxes, best[..., None] * own, sources)
