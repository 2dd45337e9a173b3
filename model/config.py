"""A whole detector's config: its parts, and what must hold between them."""

from __future__ import annotations

from dataclasses import dataclass, field

from model.config_parts import (
    HEAD_CHOICES,
    HEAD_KINDS,
    NMS_KINDS,
    STAGE_STDS,
    BackboneConfig,
    HeadConfig,
    LocalizationConfig,
    MaskConfig,
    NmsConfig,
    PoolingConfig,
    RpnConfig,
    SemanticConfig,
    Stds,
    choice,
    nearest,
)

__all__ = [
    "HEAD_KINDS",
    "NMS_KINDS",
    "STAGE_STDS",
    "BackboneConfig",
    "DetectorConfig",
    "HeadConfig",
    "LocalizationConfig",
    "MaskConfig",
    "NmsConfig",
    "PoolingConfig",
    "RpnConfig",
    "SemanticConfig",
    "Stds",
    "nearest",
]


@dataclass(frozen=True)
class DetectorConfig:
    """A whole detector."""

    num_classes: int
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    rpn: RpnConfig = field(default_factory=RpnConfig)
    pooling: PoolingConfig = field(default_factory=PoolingConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    localization: LocalizationConfig | None = field(default_factory=LocalizationConfig)
    nms: NmsConfig = field(default_factory=NmsConfig)
    mask: MaskConfig | None = None
    semantic: SemanticConfig | None = None
    max_detections: int = 100
    min_box_side: float = 1e-2  # final boxes thinner than this are dropped

    def __post_init__(self) -> None:
        levels = self.backbone.max_level - self.backbone.min_level + 2
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        if len(self.rpn.anchor_sizes) != levels:
            raise ValueError(
                f"rpn.anchor_sizes must have {levels} entries (one a level), got {len(self.rpn.anchor_sizes)}"
            )
        if self.rpn.conv_depth < 1 or self.head.convs < 0:
            raise ValueError(
                "rpn.conv_depth must be at least 1 and head.convs at least 0, "
                f"got {self.rpn.conv_depth} and {self.head.convs}"
            )
        for name, known in HEAD_CHOICES.items():
            choice(f"head.{name}", getattr(self.head, name), known)
        self._check_stages()
        self._check_masks()
        if self.head.class_specific_first and self.localization is not None and self.head.kind != "shared":
            raise ValueError(
                f"the localization head needs class-agnostic regression from a {self.head.kind} head: "
                "one box per proposal"
            )
        if self.nms.kind == "iou_guided" and self.localization is None:
            raise ValueError("iou_guided NMS ranks by predicted IoU: it needs a localization head")

    def _check_masks(self) -> None:
        htc = self.head.kind == "htc"
        if htc and self.mask is None:
            raise ValueError("an htc head has masks at every stage: it needs a mask section")
        if not htc and (self.semantic is not None or (self.mask is not None and self.mask.flow)):
            raise ValueError('mask.flow and the semantic branch need head.kind = "htc"')
        strides = [2**level for level in range(self.backbone.min_level, self.backbone.max_level + 1)]
        if self.semantic is not None and self.semantic.stride not in strides:
            raise ValueError(f"semantic.stride must be one of {strides}, got {self.semantic.stride}")
        if self.semantic is not None and self.semantic.pooled_size is not None and self.mask is not None:
            sizes = (self.pooling.output_size, self.mask.pooling.output_size)
            if any(self.semantic.pooled_size % size for size in sizes):
                raise ValueError(
                    f"semantic.pooled_size must be a multiple of {sizes}, got {self.semantic.pooled_size}"
                )

    def _check_stages(self) -> None:
        head = self.head
        single = head.kind in ("shared", "double", "tsd")
        if single and head.stages != 1:
            raise ValueError(f"a {head.kind} head has one regression stage: set head.stages = 1")
        if head.offset_width < 1 or head.bin_samples < 1:
            raise ValueError(
                "head.offset_width and head.bin_samples must be at least 1, "
                f"got {head.offset_width} and {head.bin_samples}"
            )
        if not (0 <= head.class_margin <= 1 and 0 <= head.iou_margin <= 1):
            raise ValueError(
                "head.class_margin and head.iou_margin must be 0..1, "
                f"got {head.class_margin} and {head.iou_margin}"
            )
        limits = {"stds": head.stds, "stage_weights": head.stage_weights}
        if head.kind in ("cascade", "htc"):
            limits["stage_ious"] = head.stage_ious
        most = min(len(values) for values in limits.values())
        if not 1 <= head.stages <= most:
            raise ValueError(f"head.stages must be 1..{most}, got {head.stages}")
        for name in ("test_boxes", "test_classifier"):
            stage = getattr(head, name)
            if stage is not None and not 1 <= stage <= head.stages:
                raise ValueError(f"head.{name} must be 1..{head.stages}, got {stage}")
        if head.kind == "decoupled" and head.share_trunk and (head.stages != 1 or head.regressor != "fc"):
            raise ValueError("head.share_trunk needs head.stages = 1 and fully connected regressors")
