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
from model.heads import build_host
from model.heads.host import Refined, Rois
from model.heads.htc import HtcHead
from model.heads.mask import MaskHead, mask_losses, of_class, with_masks
from model.localization import build_localization, localization_losses, look
from model.ranking import rank
from model.rpn import RegionProposalNetwork
from model.structures import Candidates, DetectorOutput, Proposals, Target


class TwoStageDetector(nn.Module):
    """Proposals, class scores, refined boxes, a second look at each of them, and masks of those kept."""

    pixel_mean: Tensor  # [3], of pixels in 0..255
    pixel_std: Tensor

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.host_frozen = False
        levels = range(config.backbone.min_level, config.backbone.max_level + 1)
        self.strides = [2**level for level in levels]
        self.backbone = build_backbone(config.backbone)
        self.fpn = FeaturePyramid(
            self.backbone.channels, config.backbone.fpn_channels, config.backbone.fpn_norm
        )
        rpn_strides = [*self.strides, 2 * self.strides[-1]]
        self.rpn = RegionProposalNetwork(config.rpn, config.backbone.fpn_channels, rpn_strides)
        pooled_features = config.backbone.fpn_channels * config.pooling.output_size**2
        self.head = build_host(pooled_features, config, self.strides)
        self.localization = (
            build_localization(pooled_features, config.localization)
            if config.localization is not None
            else None
        )
        self.mask = (
            MaskHead(config.backbone.fpn_channels, config.mask, config.num_classes)
            if config.mask is not None and not isinstance(self.head, HtcHead)
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
        rois = self.rois(pyramid)
        refined = self.refine(rois, proposals, image_sizes)
        candidates = self.look_back(rois, refined)
        output = rank(candidates, class_threshold, score_threshold, iou_weight, nms_threshold, self.config)
        return self.segment(rois, output)

    def candidates(self, images: UInt8[Tensor, "B H W 3"], image_sizes: Int[Tensor, "B 2"]) -> Candidates:
        """Final boxes before NMS: the one population on which scores are compared."""
        pyramid = self.extract(images, image_sizes)
        return self.candidates_from(pyramid, self.rois(pyramid), images, image_sizes)

    def candidates_from(
        self, pyramid: Sequence[Tensor], rois: Rois, images: Tensor, image_sizes: Tensor
    ) -> Candidates:
        """The same from features that are at hand: `extract`'s pyramid, and `rois` of it."""
        proposals = self.propose(pyramid, images, image_sizes)
        return self.look_back(rois, self.refine(rois, proposals, image_sizes))

    @property
    def can_rescore(self) -> bool:
        """Whether a head reads boxes that come from elsewhere: foresight needs the proposal's features."""
        config = self.config.localization
        return config is not None and config.test_features == "box"

    @property
    def makes_masks(self) -> bool:
        """Whether its output holds masks."""
        return self.config.mask is not None

    def rescore(
        self,
        images: UInt8[Tensor, "B H W 3"],
        image_sizes: Int[Tensor, "B 2"],
        boxes: Float[Tensor, "B N 4"],
        num_boxes: Int[Tensor, " B"],
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """A second opinion on anybody's boxes: ious, purities, integrities [B, N], class scores [B, N, C].

        Rows past `num_boxes` are zero. Raises ValueError for a detector that cannot (see `can_rescore`).
        """
        return self.rescore_from(self.rois(self.extract(images, image_sizes)), image_sizes, boxes, num_boxes)

    def rescore_from(
        self, rois: Rois, image_sizes: Tensor, boxes: Tensor, num_boxes: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor]:
        """The same from features that are at hand."""
        if self.localization is None or not self.can_rescore:
            raise ValueError("rescore needs a localization head that reads boxes, which this detector lacks")
        inside = torch.arange(boxes.shape[1], device=boxes.device)[None] < num_boxes[:, None]
        clipped = box_ops.clip(boxes, image_sizes)
        pooled = rois.fixed(clipped)
        quality = self.localization(pooled)
        class_scores = self.head.classify_boxes(rois, clipped, pooled).float().softmax(dim=-1)[:, :-1]
        shape = boxes.shape[:2]
        ious = quality.ious.reshape(shape) * inside
        parts = (None if q is None else q.reshape(shape) * inside for q in quality[1:])
        purities, integrities = parts
        return (
            ious,
            purities,
            integrities,
            class_scores.reshape(*shape, self.config.num_classes) * inside[..., None],
        )

    def losses(
        self, images: UInt8[Tensor, "B H W 3"], image_sizes: Int[Tensor, "B 2"], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Every training loss by name; their sum is what is minimised (DRCNN Eq. (8) + DIR Eq. (10)).

        With a frozen host, those of the localization head.
        """
        if self.host_frozen:
            return self._losses_on_frozen_host(images, image_sizes, targets)
        pyramid = self.extract(images, image_sizes)
        logits, deltas, anchors = self.rpn(pyramid, (images.shape[1], images.shape[2]))
        thresholds = [self.config.rpn.nms_threshold]
        if self.head.denser_list:
            thresholds.append(self.config.rpn.nms_threshold_regression)
        proposals = self.rpn.propose(logits, deltas, anchors, image_sizes, thresholds)
        rois = self.rois(pyramid)
        terms = self.rpn.losses(logits, deltas, anchors, targets)
        own, regressed = self.head.losses(rois, proposals, targets, image_sizes)
        terms |= own
        if self.localization is not None:
            assert self.config.localization is not None
            terms |= localization_losses(
                self.localization, self.config.localization, rois, regressed, targets, image_sizes
            )
        if self.mask is not None:
            assert self.config.mask is not None
            terms |= mask_losses(self.mask, self.config.mask, rois, regressed, targets)
        return terms

    def freeze_host(self) -> None:
        """From now on only the localization head is trained; the host keeps its weights and statistics.

        Raises ValueError for a detector without a localization head.
        """
        if self.localization is None:
            raise ValueError("there is no localization head to train on the frozen host")
        self.host_frozen = True
        self.requires_grad_(False)
        self.localization.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> TwoStageDetector:
        """Training mode, or evaluation; a frozen host stays in evaluation mode."""
        super().train(mode and not self.host_frozen)
        if self.host_frozen:
            assert self.localization is not None
            self.localization.train(mode)
            self.rpn.train(mode)  # it keeps no statistics: the mode only tells how many proposals it makes
            self.training = mode
        return self

    def _losses_on_frozen_host(
        self, images: Tensor, image_sizes: Tensor, targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """DIR Eq. (9) alone: features are computed once, without a graph, for all that read them."""
        assert self.localization is not None and self.config.localization is not None
        with torch.no_grad():
            pyramid = self.extract(images, image_sizes)
            rois = self.rois(pyramid)
            proposals = self.propose(pyramid, images, image_sizes)
            regressed = self.head.positives(rois, [proposals], targets, image_sizes)
        return localization_losses(
            self.localization, self.config.localization, rois, regressed, targets, image_sizes
        )

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

    def rois(self, pyramid: Sequence[Tensor]) -> Rois:
        """RoI features of one pyramid; the pooled top level serves the RPN only."""
        return self.head.enrich(Rois(pyramid[:-1], self.strides, self.config.pooling))

    def refine(self, rois: Rois, proposals: Proposals, image_sizes: Tensor) -> Refined:
        """Class scores, and the boxes that the regressors make of the proposals worth a second look."""
        looks = None if self.config.localization is None else self.config.localization.boxes_at_inference
        return self.head.refine(rois, proposals, image_sizes, looks)

    def look_back(self, rois: Rois, refined: Refined) -> Candidates:
        """Hindsight: the localization head reads the FINAL boxes."""
        if self.localization is None:
            return Candidates(refined.boxes, refined.class_scores, None, None, None)
        assert self.config.localization is not None
        quality = look(self.localization, self.config.localization, rois, refined)
        return Candidates(refined.boxes, refined.class_scores, *quality)

    def segment(self, rois: Rois, output: DetectorOutput) -> DetectorOutput:
        """Masks of the KEPT boxes: rescoring and NMS have decided which those are."""
        if isinstance(self.head, HtcHead):
            return with_masks(output, self.head.segment(rois, output.boxes, output.labels))
        if self.mask is None:
            return output
        assert self.config.mask is not None
        logits = self.mask(rois.with_pooling(self.config.mask.pooling).fixed(output.boxes))
        return with_masks(output, of_class(logits, output.labels.flatten()).float().sigmoid())
