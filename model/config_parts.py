"""The parts of a detector's config, one frozen dataclass each. Defaults are the papers' R50 settings."""

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


def nearest(wrong: str, known: Iterable[str]) -> str:
    """What to tell someone who wrote `wrong` where one of `known` was expected."""
    names = list(known)
    near = difflib.get_close_matches(wrong, names, 1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


NMS_KINDS = ("hard", "soft_linear", "soft_gaussian", "iou_guided")
HEAD_KINDS = ("shared", "decoupled", "cascade", "double", "htc", "tsd")
HEAD_CHOICES = {
    "kind": HEAD_KINDS,
    "regressor": ("fc", "conv"),
    "average": ("probabilities", "logits"),
}
_LOCALIZATION_CHOICES = {
    "kind": ("purity_integrity", "iou", "iou_control"),
    "train_features": ("box", "proposal"),
    "test_features": ("box", "proposal"),
    "combination": ("eq5", "geometric", "arithmetic", "purity", "integrity"),
}


def choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `known`."""
    if value not in known:
        near = difflib.get_close_matches(value, known, 1)
        hint = f": did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}{hint}")


@dataclass(frozen=True)
class BackboneConfig:
    """`name` is one of `resnet.RESNETS` or a timm model; the pyramid takes its maps of stride 2**level."""

    name: str = "resnet50"
    min_level: int = 2
    max_level: int = 5
    fpn_channels: int = 256
    # batch norm after each of the pyramid's convolutions, which then have no bias: torchvision's v2 detectors
    fpn_norm: bool = False
    # of every batch norm; None: the backbone library's own. torchvision runs its first weights with 0
    norm_eps: float | None = None
    # maps up to stride 2**frozen_levels are not trained: 2 = stem and first stage; 0 = train all
    frozen_levels: int = 2
    # where a ResNet bottleneck strides: False = the 3x3 (torchvision), True = the first 1x1
    stride_in_1x1: bool = False
    # the 3x3 of every ResNet bottleneck of C3..C5: plain ("none"), or a deformable convolution "v1" or "v2"
    deformable: str = "none"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.deformable not in ("none", "v1", "v2"):
            raise ValueError(f'backbone.deformable must be "none", "v1" or "v2", got {self.deformable!r}')


@dataclass(frozen=True)
class RpnConfig:
    """Anchors, proposal lists and their losses. One anchor size per level, the pooled one included."""

    anchor_sizes: tuple[float, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    anchors_rounded: bool = True
    stride_from_image: bool = False
    channels: int | None = None  # None: the pyramid's
    conv_depth: int = 1  # 3x3 convolutions before the two outputs; torchvision's v2 has 2
    shrink_limited: bool = False  # bound log-scale steps below as well as above: mmdetection's coder
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
    """The second stage. `kind` is one of HEAD_KINDS; what a kind does not know it ignores.

    "shared": Faster R-CNN, one trunk for both tasks. "decoupled": DRCNN, a sample and a trunk per task,
    cascaded regressors. "cascade": Cascade R-CNN, a classifier and a regressor at every stage. "double":
    Double-Head. "htc": a cascade with a mask head at every stage. "tsd": task-aware spatial disentanglement.
    """

    kind: str = "decoupled"
    width: int = 1024
    stages: int = 3  # cascaded regressors (DRCNN Eq. (7)); 1 for "shared", "double" and "tsd"
    class_specific_first: bool = False
    loss_weight: float | None = None  # DRCNN lambda; None: .5 for cascaded regressors, 1 for one stage
    # of each stage's losses. DRCNN's released code multiplies lambda by (1, .5, .25), its text does not
    stage_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    batch_per_image: int = 512
    positive_fraction: float = 0.25
    positive_iou: float = 0.5
    regression_batch_per_image: int = 512
    stds: tuple[Stds, ...] = STAGE_STDS
    regressor: str = "fc"  # "conv": Double-Head's convolutional one (DRCNN Table XI)
    share_trunk: bool = (
        False  # decoupled, one stage: its ablation "shared FC"; cascade: False is DRCNN Table X
    )
    # cascade: the IoU from which a proposal is positive at each stage
    stage_ious: tuple[float, ...] = (0.5, 0.6, 0.7)
    # cascade, at inference: boxes of which stage (None: the last), scores of which classifier (None: all)
    test_boxes: int | None = None
    test_classifier: int | None = None
    average: str = "probabilities"  # or "logits", as mmdetection does
    roi_scale: float = 1.3  # double: the regressor's RoIs are this much larger
    # shared: this many 3x3 convolutions with batch norm and ONE fully connected layer; 0: two of the latter
    convs: int = 0
    shrink_limited: bool = False  # at every stage of every kind: as RpnConfig's
    # tsd: gamma, the share of a proposal's side that an offset of 1 stands for; the width of the layers that
    # predict offsets; samples per bin and axis where it pools again
    offset_scale: float = 0.1
    offset_width: int = 256
    bin_samples: int = 2
    # tsd: by how much its class score and its IoU shall exceed those of the sibling head
    class_margin: float = 0.2
    iou_margin: float = 0.2


@dataclass(frozen=True)
class LocalizationConfig:
    """The DIR head.

    `kind`: "purity_integrity"; "iou", one branch that predicts the IoU itself; "iou_control", two branches
    that do, so that its parameters match the first kind's. Hindsight reads the features of the final "box",
    foresight those of the "proposal" that was regressed: `train_features`, `test_features` (DIR Table 4).
    `combination` makes one number of purity and integrity for ranking (DIR Table 5); training always takes
    Eq. (5). `jitter_per_truth` jittered copies of each ground truth also train it (ours), so that /rescore's
    arbitrary boxes are familiar; 0 is the paper's recipe.
    """

    kind: str = "purity_integrity"
    width: int = 1024
    train_features: str = "box"
    test_features: str = "box"
    combination: str = "eq5"
    boxes_at_inference: int = 256  # D: the boxes of highest class score; fixed shapes can't skip boxes
    loss_weight: float = 1.0
    use_truth_proposals: bool = True
    jitter_per_truth: int = 4
    jitter_min_iou: float = 0.1

    def __post_init__(self) -> None:
        for name, known in _LOCALIZATION_CHOICES.items():
            choice(f"localization.{name}", getattr(self, name), known)
        if self.kind != "purity_integrity" and self.combination != "eq5":
            raise ValueError('localization.combination needs purity and integrity: kind "purity_integrity"')
        if self.train_features == "proposal" and self.jitter_per_truth:
            raise ValueError(
                "localization.jitter_per_truth must be 0 with train_features = proposal: jitter has none"
            )


@dataclass(frozen=True)
class PoolingConfig:
    """RoI-Align: torchvision's convention by default; mmdetection's is aligned=True, sampling_ratio=0."""

    output_size: int = 7
    sampling_ratio: int = 2
    aligned: bool = False


@dataclass(frozen=True)
class MaskConfig:
    """Mask R-CNN's branch; masks have twice the side of what is pooled.

    `train_boxes`: it learns on the "proposal" that the last regressor read, as published, or on the final
    "box", which is what it sees at inference. With a head of kind "htc" each stage has a mask head: "box" is
    its interleaved execution, and `flow` hands what one mask head has made of a RoI to the next.
    """

    convs: int = 4
    channels: int = 256
    pooling: PoolingConfig = field(default_factory=lambda: PoolingConfig(output_size=14))
    train_boxes: str = "proposal"
    loss_weight: float = 1.0
    flow: bool = False

    def __post_init__(self) -> None:
        choice("mask.train_boxes", self.train_boxes, ("proposal", "box"))
        if self.convs < 0:
            raise ValueError(f"mask.convs must be 0 or more, got {self.convs}")


@dataclass(frozen=True)
class SemanticConfig:
    """HTC's semantic branch: a map of `classes` at `stride`, whose features every RoI gets added.

    Its loss needs a map of classes with each image's ground truth; `loss_weight` = 0 goes without.
    `pooled_size`: RoIs are pooled from the map at this size and averaged to their own; None: at their own.
    """

    classes: int = 183  # COCO-Stuff's
    convs: int = 4
    channels: int = 256
    stride: int = 8
    loss_weight: float = 0.2
    pooled_size: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= 255:  # a map's label is a byte, and 255 says "no class"
            raise ValueError(f"semantic.classes must be 1..255, got {self.classes}")
        if self.convs < 0 or self.loss_weight < 0:
            raise ValueError("semantic.convs and semantic.loss_weight must be 0 or more")


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

    def __post_init__(self) -> None:
        choice("nms.kind", self.kind, NMS_KINDS)
        if not (0 < self.sigma < math.inf):
            raise ValueError(f"nms.sigma must be positive and finite, got {self.sigma}")
        if not 0 <= self.min_score < 1:
            raise ValueError(f"nms.min_score must be at least 0 and below 1, got {self.min_score}")
