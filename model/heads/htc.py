"""Hybrid Task Cascade: a cascade of boxes with a mask head at every stage, and one semantic map for both.

Chen et al., 2019, as a host for DIR. A stage's mask head learns on the boxes that the same stage regressed
(interleaved execution) and reads what the mask head of the stage before made of the same RoI (information
flow). With neither, and without the semantic branch, this is Cascade Mask R-CNN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.config import DetectorConfig, MaskConfig
from model.heads.cascade import CascadeHead
from model.heads.host import Regressed, Rois
from model.heads.mask import MaskHead, mask_bce, mask_targets, of_class
from model.heads.semantic import SemanticBranch, semantic_loss
from model.sampling import ClassificationSample
from model.structures import Proposals, Target


class FlowMaskHead(MaskHead):
    """A mask head that may add what the one before it made of the same RoI."""

    def __init__(self, in_channels: int, config: MaskConfig, num_classes: int, *, first: bool) -> None:
        super().__init__(in_channels, config, num_classes)
        self.incoming: nn.Conv2d | None = None
        if config.flow and not first:
            width = config.channels if config.convs else in_channels
            self.incoming = nn.Conv2d(width, in_channels, 1)
            nn.init.kaiming_normal_(self.incoming.weight, mode="fan_out", nonlinearity="relu")
            assert self.incoming.bias is not None
            nn.init.zeros_(self.incoming.bias)

    def read(
        self, pooled: Float[Tensor, "N ch s s"], before: Float[Tensor, "N width s s"] | None
    ) -> Float[Tensor, "N width s s"]:
        """The features that `predict` takes; `before`: those of the stage before, of the same RoIs."""
        if self.incoming is None or before is None:
            return self.features(pooled)
        return self.features(pooled + F.relu(self.incoming(before)))


class HtcHead(CascadeHead):
    """Cascade R-CNN's stages, each followed by a mask head; RoI features include the semantic map's."""

    def __init__(self, in_features: int, config: DetectorConfig, strides: Sequence[int]) -> None:
        super().__init__(in_features, config.head, config.num_classes)
        assert config.mask is not None  # the config saw to it
        channels = config.backbone.fpn_channels
        self.mask_config, self.semantic_config = config.mask, config.semantic
        self.masks = nn.ModuleList(
            FlowMaskHead(channels, config.mask, config.num_classes, first=stage == 0)
            for stage in range(config.head.stages)
        )
        self.semantic = (
            SemanticBranch(channels, config.semantic, strides) if config.semantic is not None else None
        )

    def enrich(self, rois: Rois) -> Rois:
        """The same RoIs with the semantic map's features added to each."""
        if self.semantic is None:
            return rois
        features, logits = self.semantic(rois.pyramid)
        config = self.semantic.config
        return replace(
            rois,
            context=features,
            context_logits=logits,
            context_stride=config.stride,
            context_side=config.pooled_size,
        )

    def losses(
        self, rois: Rois, proposals: Sequence[Proposals], targets: Sequence[Target], image_sizes: Tensor
    ) -> tuple[dict[str, Tensor], Regressed]:
        """The cascade's, a mask loss at every stage, and the semantic map's."""
        terms, regressed = super().losses(rois, proposals, targets, image_sizes)
        config = self.semantic_config
        if config is not None:
            assert rois.context_logits is not None
            terms["semantic"] = (
                config.loss_weight * semantic_loss(rois.context_logits, targets, config.stride)
                if config.loss_weight > 0
                else rois.context_logits.float().sum() * 0  # boxes and masks alone teach the branch
            )
        return terms, regressed

    def after_stage(
        self,
        stage: int,
        rois: Rois,
        samples: Sequence[ClassificationSample],
        refined: Sequence[Tensor],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """The stage's mask loss. Interleaved: a sample is drawn anew from the boxes it has just regressed."""
        config = self.mask_config
        if config.train_boxes == "box":
            samples = self.sample(refined, targets, self.config.stage_ious[stage])
        rows = [s.labels < self.num_classes for s in samples]
        boxes = [s.boxes[r] for s, r in zip(samples, rows, strict=True)]
        objects = [s.objects[r] for s, r in zip(samples, rows, strict=True)]
        labels = torch.cat([s.labels[r] for s, r in zip(samples, rows, strict=True)])
        logits = self._mask_logits(rois.with_pooling(config.pooling).ragged(boxes), stage)
        wished = mask_targets(boxes, objects, targets, logits.shape[-1])
        weight = self.config.stage_weights[stage] * config.loss_weight
        return {f"mask_{stage + 1}": weight * mask_bce(logits, labels, wished)}

    def _mask_logits(self, pooled: Float[Tensor, "N ch s s"], stage: int) -> Float[Tensor, "N C m m"]:
        """What the stage's mask head says; with information flow it needs all heads before it."""
        features: Tensor | None = None
        for head in self.masks[0 if self.mask_config.flow else stage : stage + 1]:
            features = head.read(pooled, features)  # type: ignore[operator]
        return self.masks[stage].predict(features)  # type: ignore[operator,no-any-return]

    def segment(
        self, rois: Rois, boxes: Float[Tensor, "B K 4"], labels: Int[Tensor, "B K"]
    ) -> Float[Tensor, "BK m m"]:
        """Mask probabilities of each box's own class: the stages' mean."""
        pooled = rois.with_pooling(self.mask_config.pooling).fixed(boxes)
        probabilities = []
        features: Tensor | None = None
        for head in self.masks:
            features = head.read(pooled, features)  # type: ignore[operator]
            logits = head.predict(features)  # type: ignore[operator]
            probabilities.append(of_class(logits, labels.flatten()).float().sigmoid())
        return torch.stack(probabilities).mean(dim=0)
