"""The two-stage detector. `TwoStageDetector.forward` is its table of contents; shapes: structures.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from model import boxes as box_ops
from model.backbone import build_backbone
from model.config import DetectorConfig
from model.fpn import FeaturePyramid
from model.heads.decoupled import DecoupledHead
from model.heads.shared import SharedHead
from model.localization import LocalizationHead
from model.ops import multilevel_roi_align, pool_ragged
from model.ranking import rank
from model.rpn import RegionProposalNetwork
from model.structures import Candidates, DetectorOutput, Proposals, Target
from model.training_losses import second_stage_losses


class TwoStageDetector(nn.Module):
    """Proposals, class scores, refined boxes, and a second look at each of them."""

    pixel_mean: Tensor  # [3], of pixels in 0..255
    pixel_std: Tensor

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        levels = range(config.backbone.min_level, config.backbone.max_level + 1)
        self.strides = [2**level for level in levels]
        self.backbone = build_backbone(config.backbone)
        self.fpn = FeaturePyramid(self.backbone.channels, config.backbone.fpn_channels)
        rpn_strides = [*self.strides, 2 * self.strides[-1]]
        self.rpn = RegionProposalNetwork(config.rpn, config.backbone.fpn_channels, rpn_strides)
        pooled_features = config.backbone.fpn_channels * config.pooling.output_size**2
        self.head: DecoupledHead | SharedHead = (
            DecoupledHead(pooled_features, config.head, config.num_classes)
            if config.head.kind == "decoupled"
            else SharedHead(
                pooled_features,
                config.head.width,
                config.num_classes,
                class_specific=config.head.class_specific_first,
            )
        )
        self.localization = (
            LocalizationHead(pooled_features, config.localization.width)
            if config.localization is not None
            else None
        )
        # images arrive as 0..255: fold that into the normalisation
        self.register_buffer("pixel_mean", torch.tensor(config.backbone.mean) * 255, persistent=False)
        self.register_buffer("pixel_std", torch.tensor(config.backbone.std) * 255, persistent=False)

    def forward(
        self,
        images: UInt8[Tensor, "B H W 3"],
        image_sizes: Int[Tensor, "B 2"],
        class_threshold: Float[Tensor, " B"],
        score_threshold: Float[Tensor, " B"],
        iou_weight: Float[Tensor, " B"],
        nms_threshold: Float[Tensor, " 1"],
    ) -> DetectorOutput:
        """Detections of a batch of letterboxed RGB images; `image_sizes` are the valid (height, width)."""
        pyramid = self.extract(images, image_sizes)
        proposals = self.propose(pyramid, images, image_sizes)
        boxes, class_scores = self.classify_and_refine(pyramid, proposals, image_sizes)
        candidates = self.look_back(pyramid, boxes, class_scores)
        return rank(candidates, class_threshold, score_threshold, iou_weight, nms_threshold, self.config)

    def candidates(self, images: UInt8[Tensor, "B H W 3"], image_sizes: Int[Tensor, "B 2"]) -> Candidates:
        """Final boxes before NMS: the one population on which scores are compared."""
        pyramid = self.extract(images, image_sizes)
        proposals = self.propose(pyramid, images, image_sizes)
        return self.look_back(pyramid, *self.classify_and_refine(pyramid, proposals, image_sizes))

    def rescore(
        self,
        images: UInt8[Tensor, "B H W 3"],
        image_sizes: Int[Tensor, "B 2"],
        boxes: Float[Tensor, "B N 4"],
        num_boxes: Int[Tensor, " B"],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A second opinion on anybody's boxes: ious, purities, integrities [B, N], class scores [B, N, C].

        Rows past `num_boxes` are zero. Raises ValueError for a detector without a localization head.
        """
        if self.localization is None:
            raise ValueError("rescore needs a localization head, which this detector lacks")
        pyramid = self.extract(images, image_sizes)
        inside = torch.arange(boxes.shape[1], device=boxes.device)[None] < num_boxes[:, None]
        pooled = self.pool(pyramid, box_ops.clip(boxes, image_sizes))
        quality = self.localization(pooled)
        class_scores = self.head.classify(pooled).float().softmax(dim=-1)[:, :-1]
        shape = boxes.shape[:2]
        ious, purities, integrities = (part.reshape(shape) * inside for part in quality)
        return (
            ious,
            purities,
            integrities,
            class_scores.reshape(*shape, self.config.num_classes) * inside[..., None],
        )

    def losses(
        self, images: UInt8[Tensor, "B H W 3"], image_sizes: Int[Tensor, "B 2"], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Every training loss by name; their sum is what is minimised (DRCNN Eq. (8) + DIR Eq. (10))."""
        pyramid = self.extract(images, image_sizes)
        logits, deltas, anchors = self.rpn(pyramid, (images.shape[1], images.shape[2]))
        thresholds = [self.config.rpn.nms_threshold]
        if self.config.head.kind == "decoupled":
            thresholds.append(self.config.rpn.nms_threshold_regression)
        proposals = self.rpn.propose(logits, deltas, anchors, image_sizes, thresholds)
        return {
            **self.rpn.losses(logits, deltas, anchors, targets),
            **second_stage_losses(self, pyramid, proposals, image_sizes, targets),
        }

    def extract(self, images: UInt8[Tensor, "B H W 3"], image_sizes: Int[Tensor, "B 2"]) -> list[Tensor]:
        """Feature pyramid of the normalised images, finest level first, the pooled level last.

        Pixels outside image_sizes are zero AFTER normalisation, so padding looks the same whatever the photo.
        """
        # channels first: ONNX Runtime broadcasts over a trailing axis of 3 several times slower
        channels = images.permute(0, 3, 1, 2).float()
        pixels = (channels - self.pixel_mean[:, None, None]) / self.pixel_std[:, None, None]
        rows = torch.arange(images.shape[1], device=images.device)[None] < image_sizes[:, :1]
        columns = torch.arange(images.shape[2], device=images.device)[None] < image_sizes[:, 1:]
        pixels = pixels * (rows[:, :, None] & columns[:, None, :])[:, None]
        return self.fpn(self.backbone(pixels))  # type: ignore[no-any-return]

    def propose(self, pyramid: Sequence[Tensor], images: Tensor, image_sizes: Tensor) -> Proposals:
        """Proposals [B, R, 4] of one list, NMS_cls: the denser list is a training-time device (DRCNN)."""
        logits, deltas, anchors = self.rpn(pyramid, (images.shape[1], images.shape[2]))
        return self.rpn.propose(logits, deltas, anchors, image_sizes, [self.config.rpn.nms_threshold])[0]

    def pool(self, pyramid: Sequence[Tensor], boxes: Float[Tensor, "B N 4"]) -> Float[Tensor, "BN ch s s"]:
        """RoI features of fixed-shape boxes; the pooled top level serves the RPN only."""
        pooling = self.config.pooling
        pooled: Tensor = multilevel_roi_align(
            list(pyramid[:-1]),
            boxes,
            self.strides,
            pooling.output_size,
            pooling.sampling_ratio,
            pooling.aligned,
        )
        return pooled

    def pool_ragged(self, pyramid: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """RoI features of one list of boxes per image, differentiable."""
        pooling = self.config.pooling
        return pool_ragged(
            list(pyramid[:-1]),
            boxes,
            self.strides,
            pooling.output_size,
            pooling.sampling_ratio,
            pooling.aligned,
        )

    def classify_and_refine(
        self, pyramid: Sequence[Tensor], proposals: Proposals, image_sizes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Boxes [B, D, 4] (or [B, D, C, 4]), class scores [B, D, C]; only the D best rows are regressed."""
        batch, count = proposals.valid.shape
        pooled = self.pool(pyramid, proposals.boxes)
        if isinstance(self.head, SharedHead):
            logits, deltas = self.head(pooled)
        else:
            logits, deltas = self.head.classify(pooled), None
        scores = logits.float().softmax(dim=-1)[:, :-1].reshape(batch, count, -1) * proposals.valid[..., None]
        rows, scores = self._most_confident(scores)
        boxes = _take(proposals.boxes, rows)
        if deltas is not None:
            deltas = _take(deltas.reshape(batch, count, -1), rows)
            return self._decode_shared(boxes, deltas, image_sizes), scores
        first = _take(pooled.reshape(batch, count, -1), rows).reshape(-1, *pooled.shape[1:])
        return self._cascade(pyramid, boxes, scores, first, image_sizes), scores

    def _most_confident(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [B, D] of highest class score, and their scores.

        The classifier reads raw proposals, so boxes that will not be looked at again need no regression.
        """
        wanted = self.config.localization.boxes_at_inference if self.config.localization else scores.shape[1]
        if wanted >= scores.shape[1]:
            rows = torch.arange(scores.shape[1], device=scores.device)[None].expand(scores.shape[0], -1)
            return rows, scores
        rows = scores.max(dim=-1).values.topk(wanted, dim=1).indices
        return rows, _take(scores, rows)

    def _decode_shared(self, boxes: Tensor, deltas: Tensor, image_sizes: Tensor) -> Tensor:
        stds = self.config.head.stds[0]
        if deltas.shape[-1] == 4:
            return box_ops.clip(box_ops.decode(boxes, deltas, stds), image_sizes)
        per_class = deltas.unflatten(-1, (-1, 4))
        return box_ops.clip(
            box_ops.decode(boxes[:, :, None].expand_as(per_class), per_class, stds), image_sizes
        )

    def _cascade(
        self, pyramid: Sequence[Tensor], boxes: Tensor, scores: Tensor, pooled: Tensor, image_sizes: Tensor
    ) -> Tensor:
        """DRCNN Eq. (7): each regressor reads the features of the box the one before it left."""
        assert isinstance(self.head, DecoupledHead)
        for stage in range(self.config.head.stages):
            if stage > 0:
                pooled = self.pool(pyramid, boxes)
            deltas = self.head.regress(stage, pooled).reshape(*boxes.shape[:2], -1)
            if deltas.shape[-1] != 4:
                best = scores.argmax(dim=-1)[..., None, None].expand(-1, -1, 1, 4)
                deltas = deltas.unflatten(-1, (-1, 4)).gather(2, best).squeeze(2)
            boxes = box_ops.clip(box_ops.decode(boxes, deltas, self.config.head.stds[stage]), image_sizes)
        return boxes

    def look_back(self, pyramid: Sequence[Tensor], boxes: Tensor, class_scores: Tensor) -> Candidates:
        """Hindsight: features of the FINAL boxes, and what the localization head reads there: DIR Eq. (7)."""
        if self.localization is None:
            return Candidates(boxes, class_scores, None, None, None)
        quality = self.localization(self.pool(pyramid, boxes))
        return Candidates(boxes, class_scores, *(part.reshape(boxes.shape[:2]) for part in quality))


def _take(values: Tensor, rows: Int[Tensor, "B D"]) -> Tensor:
    """values [B, N, X] at rows [B, D] -> [B, D, X]"""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[-1]))
