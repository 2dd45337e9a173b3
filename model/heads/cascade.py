"""Cascade R-CNN: a classifier and a regressor at every stage, each trained on better boxes than the last.

Cai & Vasconcelos, 2018, as a host for DIR. With `share_trunk` off, classifier and regressor of a stage have
trunks of their own: the three-by-three cascade of DRCNN Table X.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model import losses
from model.config import HeadConfig
from model.heads.box_deltas import box_loss, decode_lists, decode_rows
from model.heads.host import (
    Host,
    Refined,
    Regressed,
    Rois,
    most_confident,
    positives_of,
    take,
    valid_boxes,
)
from model.heads.layers import Classifier, Regressor, TwoFC, output_layer
from model.sampling import ClassificationSample
from model.structures import Proposals, Target


class SharedStage(nn.Module):
    """One trunk, C + 1 logits (background last) and 4 deltas: Cascade R-CNN's own stage."""

    def __init__(self, in_features: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.trunk = TwoFC(in_features, width)
        self.logits = output_layer(width, num_classes + 1, 0.01)
        self.deltas = output_layer(width, 4, 0.001)

    def classify(self, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> [N, C + 1]"""
        return self.logits(self.trunk(pooled))  # type: ignore[no-any-return]

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[N, ch, s, s] -> logits [N, C + 1], deltas [N, 4]"""
        hidden = self.trunk(pooled)
        return self.logits(hidden), self.deltas(hidden)


class UnsharedStage(nn.Module):
    """A classifier and a regressor that share no weight."""

    def __init__(self, in_features: int, width: int, num_classes: int) -> None:
        super().__init__()
        self.classifier = Classifier(in_features, width, num_classes)
        self.regressor = Regressor(in_features, width)

    def classify(self, pooled: Tensor) -> Tensor:
        """[N, ch, s, s] -> [N, C + 1]"""
        return self.classifier(pooled)  # type: ignore[no-any-return]

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """[N, ch, s, s] -> logits [N, C + 1], deltas [N, 4]"""
        return self.classifier(pooled), self.regressor(pooled)


@dataclass(frozen=True)
class _Step:
    """A stage in training. `refined`: its samples, regressed; `boxes`: those of them for the next stage."""

    samples: list[ClassificationSample]
    logits: Tensor
    deltas: Tensor
    refined: list[Tensor]
    boxes: list[Tensor]


class CascadeHead(Host):
    """Stage k reads, samples and corrects the boxes of stage k - 1. Class-agnostic throughout."""

    def __init__(self, in_features: int, config: HeadConfig, num_classes: int) -> None:
        super().__init__()
        self.config, self.num_classes = config, num_classes
        stage = SharedStage if config.share_trunk else UnsharedStage
        self.stages = nn.ModuleList(
            stage(in_features, config.width, num_classes) for _ in range(config.stages)
        )

    def classify(self, pooled: Tensor) -> Tensor:
        """The last stage's opinion: it has learnt on the boxes closest to final ones."""
        return self.stages[-1].classify(pooled)  # type: ignore[no-any-return,operator]

    def losses(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> tuple[dict[str, Tensor], Regressed]:
        """Each stage samples anew at its own IoU from the boxes that the stage before regressed."""
        terms: dict[str, Tensor] = {}
        for stage, step in enumerate(self._steps(rois, proposals, targets, image_sizes)):
            terms |= self._stage_losses(stage, step.samples, step.logits, step.deltas)
            terms |= self.after_stage(stage, rois, step.samples, step.boxes, targets)
        return terms, self._positives(step)

    @torch.no_grad()
    def positives(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> Regressed:
        """Those of `losses` without what else learns at a stage, which may want more than boxes as truth."""
        *_, last = self._steps(rois, proposals, targets, image_sizes)
        return self._positives(last)

    def _steps(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> Iterator[_Step]:
        boxes = valid_boxes(proposals[0])
        for stage, head in enumerate(self.stages):
            samples = self.sample(boxes, targets, self.config.stage_ious[stage])
            sampled = [s.boxes for s in samples]
            logits, deltas = head(rois.ragged(sampled))
            refined = decode_lists(sampled, deltas, self.config, image_sizes, stage)
            # ground truth that was added as a proposal is added anew by the next stage
            boxes = [part[~s.from_truth] for part, s in zip(refined, samples, strict=True)]
            yield _Step(samples, logits, deltas, refined, boxes)

    def _positives(self, last: _Step) -> Regressed:
        rows = [s.labels < self.num_classes for s in last.samples]
        final = [part[row] for part, row in zip(last.refined, rows, strict=True)]
        sources = [s.boxes[row] for s, row in zip(last.samples, rows, strict=True)]
        return positives_of(last.samples, self.num_classes, final, sources)

    def after_stage(
        self,
        stage: int,
        rois: Rois,
        samples: Sequence[ClassificationSample],
        refined: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Losses of what else learns at a stage: nothing here. `refined`: its proposals, regressed."""
        return {}

    def _stage_losses(
        self, stage: int, samples: Sequence[ClassificationSample], logits: Tensor, deltas: Tensor
    ) -> dict[str, Tensor]:
        labels = torch.cat([s.labels for s in samples])
        boxes, truths = torch.cat([s.boxes for s in samples]), torch.cat([s.truths for s in samples])
        positive = labels < self.num_classes
        weight, count = self.config.stage_weights[stage], float(len(labels))
        box = box_loss(boxes[positive], deltas[positive], truths[positive], self.config, count, stage)
        return {
            f"cls_{stage + 1}": weight * losses.cross_entropy(logits, labels),
            f"box_{stage + 1}": weight * box,
        }

    def refine(self, rois: Rois, proposals: Proposals, image_sizes: Tensor, looks: int | None) -> Refined:
        """Boxes of stage `test_boxes`, scores of classifier `test_classifier` (DRCNN Table X), or their mean.

        A classifier reads what its own stage reads, so all stages' scores need the boxes of all but the last.
        """
        config = self.config
        last_box = config.test_boxes or config.stages
        wanted = [config.test_classifier] if config.test_classifier else range(1, config.stages + 1)
        boxes = final = final_sources = proposals.boxes
        logits: list[Tensor] = []
        for stage, head in enumerate(self.stages[: max(last_box, *wanted)], start=1):
            own_logits, deltas = head(rois.fixed(boxes))
            if stage in wanted:
                logits.append(own_logits)
            sources, deltas = boxes, deltas.reshape(*boxes.shape[:2], 4)
            boxes = decode_rows(sources, deltas, config, image_sizes, stage - 1)
            if stage == last_box:
                final, final_sources = boxes, sources
        scores = self._scores(logits, proposals.valid)
        rows = most_confident(scores, looks)
        return Refined(take(final, rows), take(scores, rows), take(final_sources, rows))

    def _scores(self, logits: Sequence[Tensor], valid: Tensor) -> Tensor:
        """The classifiers' mean: [B, N, C], zero in rows that only fill."""
        stacked = torch.stack([part.float() for part in logits])
        if self.config.average == "logits":
            probabilities = stacked.mean(dim=0).softmax(dim=-1)
        else:
            probabilities = stacked.softmax(dim=-1).mean(dim=0)
        return probabilities[:, :-1].reshape(*valid.shape, -1) * valid[..., None]
