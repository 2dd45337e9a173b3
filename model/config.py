"""Every choice a detector is built from, as frozen dataclasses. Defaults are the papers' R50 settings."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

Stds = tuple[float, float, float, float]

# DRCNN, released code: each stage expects smaller corrections than the one before it.
STAGE_STDS: tuple[Stds, ...] = (
    (0.1, 0.1, 0.2, 0.2),
    (0.05, 0.05, 0.1, 0.1),
    (0.033, 0.033, 0.067, 0.067),
    (0.02, 0.02, 0.05, 0.05),
)

NMS_KINDS = ("hard", "soft_linear", "soft_gaussian", "iou_guided")


def nearest(wrong: str, known: Iterable[str]) -> str:
    """What to tell someone who wrote `wrong` where one of `known` was expected."""
    names = list(known)
    near = difflib.get_close_matches(wrong, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


@dataclass(frozen=True)
class BackboneConfig:
    """`name` is resnet50, resnet101 or a timm model; the pyramid takes its maps of stride 2**level."""

    name: str = "resnet50"
    min_level: int = 2
    max_level: int = 5
    fpn_channels: int = 256
    # maps up to stride 2**frozen_levels are not trained: 2 = stem and first stage; 0 = train all
    frozen_levels: int = 2
    # where a ResNet bottleneck strides: False = the 3x3 (torchvision), True = the first 1x1
    stride_in_1x1: bool = False
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class RpnConfig:
    """Anchors, proposal lists and their losses. One anchor size per level, the pooled one included."""

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchors_rounded: bool = True
    stride_from_image: bool = False
    channels: int | None = None  # None: the pyramid's
    pre_nms_train: int = 2000  # per level
    pre_nms_test: int = 1000
    post_nms_train: int = 1000  # per list
    post_nms_test: int = 1000
    nms_threshold: float = 0.7  # DRCNN NMS_cls
    nms_threshold_regression: float = 0.85  # DRCNN NMS_reg: best in the paper's sweep
    min_side: float = 1e-3
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    batch_per_image: int = 256
    positive_fraction: float = 0.5


@dataclass(frozen=True)
class HeadConfig:
    """The second stage.

    `kind`: "shared" (Faster R-CNN's one trunk) or "decoupled" (DRCNN: a trunk per task and stage).
    """

    kind: str = "decoupled"
    width: int = 1024
    stages: int = 3  # cascaded regressors (DRCNN Eq. (7)); 1 for "shared"
    class_specific_first: bool = False
    loss_weight: float | None = None  # DRCNN lambda; None: .5 for a cascade, 1 for one stage
    batch_per_image: int = 512
    positive_fraction: float = 0.25
    positive_iou: float = 0.5
    regression_batch_per_image: int = 512
    stds: tuple[Stds, ...] = STAGE_STDS


@dataclass(frozen=True)
class LocalizationConfig:
    """The DIR head.

    `jitter_per_truth` jittered copies of each ground truth also train it (ours), so that /rescore's arbitrary
    boxes are familiar; 0 is the paper's recipe.
    """

    width: int = 1024
    boxes_at_inference: int = 256  # D: the boxes of highest class score; fixed shapes can't skip boxes
    loss_weight: float = 1.0
    use_truth_proposals: bool = True
    jitter_per_truth: int = 4
    jitter_min_iou: float = 0.1


@dataclass(frozen=True)
class PoolingConfig:
    """RoI-Align: torchvision's convention by default; mmdetection's is aligned=True, sampling_ratio=0."""

    output_size: int = 7
    sampling_ratio: int = 2
    aligned: bool = False


@dataclass(frozen=True)
class NmsConfig:
    """How the final list is made from overlapping boxes; DIR Table 1 compares the kinds.

    `kind`:
        "hard"           ranked by the fused score: with iou_weight = .5 this is DIR-NMS
        "soft_linear"    overlapping boxes lose score instead of place: DRCNN Table IX, "Ours+"
        "soft_gaussian"  the same without a threshold
        "iou_guided"     IoU-Net's: ranked by predicted IoU, a kept box takes its cluster's best class score
    `class_agnostic`: boxes of different classes compete as well.
    """

    kind: str = "hard"
    sigma: float = 0.5  # gaussian: how fast the score falls with the overlap
    min_score: float = 0.001  # soft: a box whose score falls below is dropped
    class_agnostic: bool = False


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
    max_detections: int = 100
    min_box_side: float = 1e-2  # final boxes thinner than this are dropped

    def __post_init__(self) -> None:
        levels = self.backbone.max_level - self.backbone.min_level + 2
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        if self.head.kind not in ("shared", "decoupled"):
            raise ValueError(f'head.kind must be "shared" or "decoupled", got {self.head.kind!r}')
        if len(self.rpn.anchor_sizes) != levels:
            raise ValueError(
                f"rpn.anchor_sizes must have {levels} entries (one a level), got {len(self.rpn.anchor_sizes)}"
            )
        if not 1 <= self.head.stages <= len(self.head.stds):
            raise ValueError(f"head.stages must be 1..{len(self.head.stds)}, got {self.head.stages}")
        if self.head.kind == "shared" and self.head.stages != 1:
            raise ValueError("a shared head has one regression stage: set head.stages = 1")
        if self.head.class_specific_first and self.localization is not None:
            raise ValueError("the localization head needs class-agnostic regression: one box per proposal")
        if self.nms.kind not in NMS_KINDS:
            raise ValueError(
                f"nms.kind must be one of {', '.join(NMS_KINDS)}, got {self.nms.kind!r}: "
                f"{nearest(self.nms.kind, NMS_KINDS)}"
            )
        if not (0 < self.nms.sigma < math.inf):
            raise ValueError(f"nms.sigma must be positive and finite, got {self.nms.sigma}")
        if not 0 <= self.nms.min_score < 1:
            raise ValueError(f"nms.min_score must be at least 0 and below 1, got {self.nms.min_score}")
        if self.nms.kind == "iou_guided" and self.localization is None:
            raise ValueError("iou_guided NMS ranks by predicted IoU: it needs a localization head")
