"""What the detector asks of a second stage, and what it hands it.

A host turns proposals into class scores and boxes; where it ends, the localization head begins. Training
works on one list of boxes per image (how many there are depends on the data), inference on fixed shapes; the
two views of the same features are `Rois.ragged` and `Rois.fixed`. Shapes: structures.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.config import HeadConfig, PoolingConfig
from model.ops import multilevel_roi_align, pool_ragged
from model.sampling import ClassificationSample, sample_classification
from model.structures import Proposals, Target


@dataclass(frozen=True)
class Rois:
    """RoI features of one batch: `pyramid` holds the levels that RoIs are pooled from.

    `context` [B, ch, h, w], where a host has made one, is one map whose features every RoI gets added;
    `context_side`: pooled at this size and averaged down to the RoIs' own.
    """

    pyramid: Sequence[Tensor]
    strides: Sequence[int]
    pooling: PoolingConfig
    context: Tensor | None = None
    context_stride: int = 8
    context_side: int | None = None
    context_logits: Tensor | None = None

    def fixed(self, boxes: Float[Tensor, "B N 4"]) -> Float[Tensor, "BN ch s s"]:
        """Features of N boxes of every image."""
        size, how = self.pooling.output_size, (self.pooling.sampling_ratio, self.pooling.aligned)
        pooled: Tensor = multilevel_roi_align(list(self.pyramid), boxes, list(self.strides), size, *how)
        if self.context is None:
            return pooled
        side = self.context_side or size
        added: Tensor = multilevel_roi_align([self.context], boxes, [self.context_stride], side, *how)
        return pooled + _averaged(added, size)

    def ragged(self, boxes: Sequence[Tensor]) -> Tensor:
        """Features of one list of boxes per image, image after image; differentiable."""
        size, how = self.pooling.output_size, (self.pooling.sampling_ratio, self.pooling.aligned)
        pooled = pool_ragged(list(self.pyramid), boxes, self.strides, size, *how)
        if self.context is None:
            return pooled
        side = self.context_side or size
        added = pool_ragged([self.context], boxes, [self.context_stride], side, *how)
        return pooled + _averaged(added, size)

    def with_pooling(self, pooling: PoolingConfig) -> Rois:
        """The same features, pooled to another size or convention."""
        return replace(self, pooling=pooling)

    def detached(self) -> Rois:
        """The same features, out of reach of gradients."""
        context = None if self.context is None else self.context.detach()
        return replace(self, pyramid=[level.detach() for level in self.pyramid], context=context)


def _averaged(pooled: Float[Tensor, "N ch s s"], size: int) -> Float[Tensor, "N ch t t"]:
    """Cells averaged in squares, down to size x size."""
    factor = pooled.shape[-1] // size
    return pooled if factor == 1 else F.avg_pool2d(pooled, factor)


class Refined(NamedTuple):
    """What a host makes of proposals at inference: D rows an image.

    `boxes` is [B, D, C, 4] when regression is class-specific. `sources`: the box that the last regressor read
    to make each of `boxes` (foresight's features).
    """

    boxes: Float[Tensor, "B D 4"] | Float[Tensor, "B D C 4"]
    class_scores: Float[Tensor, "B D C"]
    sources: Float[Tensor, "B D 4"]


class Regressed(NamedTuple):
    """Training's positives after all regressors, detached, a list per image, for the localization head.

    `truths` are those that the proposals were matched to, `labels` and `objects` their classes and indices;
    `from_truth`: the proposal was a ground truth.
    """

    boxes: list[Tensor]
    sources: list[Tensor]
    truths: list[Tensor]
    from_truth: list[Tensor]
    labels: list[Tensor]
    objects: list[Tensor]


class Host(nn.Module, ABC):
    """A second stage."""

    config: HeadConfig
    num_classes: int
    denser_list = False  # whether `losses` wants DRCNN's second list of proposals, for regression

    def enrich(self, rois: Rois) -> Rois:
        """RoI features with what this host adds to them: nothing, unless it says otherwise."""
        return rois

    @abstractmethod
    def losses(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> tuple[dict[str, Tensor], Regressed]:
        """Every loss of the second stage by name, and its regressed positives."""

    @torch.no_grad()
    def positives(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> Regressed:
        """The regressed positives of `losses` alone, for a host that is not trained.

        A host may spare what the losses cost; one that wants a denser list must, for there is none here.
        """
        return self.losses(rois, proposals, targets, image_sizes)[1]

    @abstractmethod
    def refine(
        self, rois: Rois, proposals: Proposals, image_sizes: Int[Tensor, "B 2"], looks: int | None
    ) -> Refined:
        """Class scores and boxes of the `looks` proposals of highest class score (None: of all)."""

    @abstractmethod
    def classify(self, pooled: Float[Tensor, "N ch s s"]) -> Float[Tensor, "N classes"]:
        """Logits, background last, of boxes that need no regression."""

    def classify_boxes(
        self, rois: Rois, boxes: Float[Tensor, "B N 4"], pooled: Float[Tensor, "BN ch s s"]
    ) -> Float[Tensor, "BN classes"]:
        """The same for N boxes of every image, whose features are `pooled`: all that most hosts read."""
        return self.classify(pooled)

    def sample(
        self,
        boxes: Sequence[Tensor],
        targets: Sequence[Target],
        positive_iou: float | None = None,
    ) -> list[ClassificationSample]:
        """The mini-batch of each image: `batch_per_image` boxes, a share of them positive, truth added."""
        return [
            sample_classification(
                own,
                target,
                batch=self.config.batch_per_image,
                positive_fraction=self.config.positive_fraction,
                positive_iou=self.config.positive_iou if positive_iou is None else positive_iou,
                background=self.num_classes,
            )
            for own, target in zip(boxes, targets, strict=True)
        ]


def valid_boxes(proposals: Proposals) -> list[Tensor]:
    """The proposals of each image without the rows that fill up."""
    return [boxes[valid] for boxes, valid in zip(proposals.boxes, proposals.valid, strict=True)]


def positives_of(
    samples: Sequence[ClassificationSample], background: int, boxes: list[Tensor], sources: list[Tensor]
) -> Regressed:
    """`boxes` and `sources` belong to the samples' positives, in order."""
    rows = [s.labels < background for s in samples]
    return Regressed(
        boxes,
        sources,
        [s.truths[r] for s, r in zip(samples, rows, strict=True)],
        [s.from_truth[r] for s, r in zip(samples, rows, strict=True)],
        [s.labels[r] for s, r in zip(samples, rows, strict=True)],
        [s.objects[r] for s, r in zip(samples, rows, strict=True)],
    )


def positive_lists(
    samples: Sequence[ClassificationSample], background: int
) -> tuple[list[Tensor], Int[Tensor, " P"]]:
    """(boxes of each image, labels of all) of the samples' positives."""
    rows = [s.labels < background for s in samples]
    boxes = [s.boxes[row] for s, row in zip(samples, rows, strict=True)]
    return boxes, torch.cat([s.labels[row] for s, row in zip(samples, rows, strict=True)])


def class_probabilities(logits: Tensor, valid: Tensor) -> Float[Tensor, "B N C"]:
    """Softmax without background, zero where a proposal is only filling: logits [B * N, C + 1]."""
    scores = logits.float().softmax(dim=-1)[:, :-1]
    return scores.reshape(*valid.shape, -1) * valid[..., None]


def most_confident(scores: Float[Tensor, "B N C"], looks: int | None) -> Int[Tensor, "B D"]:
    """Rows of highest class score; in their own order where all are looked at."""
    count = scores.shape[1]
    if looks is None or looks >= count:
        return torch.arange(count, device=scores.device)[None].expand(scores.shape[0], -1)
    return scores.max(dim=-1).values.topk(looks, dim=1).indices


def take(values: Float[Tensor, "B N X"], rows: Int[Tensor, "B D"]) -> Float[Tensor, "B D X"]:
    """values at rows"""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))
