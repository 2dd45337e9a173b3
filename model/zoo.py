"""Detectors by name. A name is a factory function; `build(name, num_classes, ...)` is all there is to it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace

from model.config import (
    BackboneConfig,
    DetectorConfig,
    HeadConfig,
    LocalizationConfig,
    MaskConfig,
    RpnConfig,
    SemanticConfig,
    nearest,
)
from model.detector import TwoStageDetector


def faster_rcnn(num_classes: int, backbone: str = "resnet50") -> DetectorConfig:
    """Faster R-CNN with FPN, class-specific regression: torchvision's detector in our operators."""
    return DetectorConfig(
        num_classes,
        BackboneConfig(backbone),
        RpnConfig(stride_from_image=True, pre_nms_test=1000, post_nms_test=1000),
        head=HeadConfig(kind="shared", stages=1, class_specific_first=True),
        localization=None,
    )


def mask_rcnn(num_classes: int, backbone: str = "resnet50") -> DetectorConfig:
    """Mask R-CNN with FPN: torchvision's detector in our operators."""
    return replace(faster_rcnn(num_classes, backbone), mask=MaskConfig())


def cascade_rcnn(num_classes: int, backbone: str = "resnet50") -> DetectorConfig:
    """Cascade R-CNN: three stages at IoU .5, .6 and .7."""
    head = HeadConfig(kind="cascade", share_trunk=True, stage_weights=(1.0, 0.5, 0.25))
    return DetectorConfig(num_classes, BackboneConfig(backbone), head=head, localization=None)


def cascade_mask_rcnn(num_classes: int, backbone: str = "resnet50") -> DetectorConfig:
    """Cascade R-CNN with a mask head at every stage, each learning on the proposals of its own."""
    config = cascade_rcnn(num_classes, backbone)
    return replace(config, head=replace(config.head, kind="htc"), mask=MaskConfig())


def htc(num_classes: int, backbone: str = "resnet50") -> DetectorConfig:
    """Hybrid Task Cascade: interleaved masks that flow from stage to stage, and a semantic branch."""
    config = cascade_mask_rcnn(num_classes, backbone)
    return replace(config, mask=MaskConfig(train_boxes="box", flow=True), semantic=SemanticConfig())


def cascade_3x3(num_classes: int, backbone: str = "resnet50") -> DetectorConfig:
    """Three classifiers and three regressors, no trunk shared (DRCNN Table X)."""
    config = cascade_rcnn(num_classes, backbone)
    return replace(config, head=replace(config.head, share_trunk=False))


def double_head(num_classes: int, backbone: str = "resnet50") -> DetectorConfig:
    """Double-Head R-CNN: convolutions regress."""
    head = HeadConfig(kind="double", stages=1)
    return DetectorConfig(num_classes, BackboneConfig(backbone), head=head, localization=None)


def tsd(num_classes: int, backbone: str = "resnet50") -> DetectorConfig:
    """Task-aware spatial disentanglement: each task moves the proposal to where it sees best."""
    head = HeadConfig(kind="tsd", stages=1, class_specific_first=True)
    return DetectorConfig(num_classes, BackboneConfig(backbone), head=head, localization=None)


def decoupled_rcnn(
    num_classes: int, backbone: str = "resnet50", stages: int = 3, regressor: str = "fc"
) -> DetectorConfig:
    """Decoupled R-CNN (DRCNN): own sample and own weights per task, cascaded regressors."""
    head = HeadConfig(stages=stages, regressor=regressor)
    return DetectorConfig(num_classes, BackboneConfig(backbone), head=head, localization=None)


def with_localization(
    host: Callable[..., DetectorConfig], jitter_per_truth: int = 0
) -> Callable[..., DetectorConfig]:
    """The host with the DIR head, regression class-agnostic (DIR §4.2). No jitter is the paper's recipe."""

    @functools.wraps(host)
    def build_config(num_classes: int, **options: object) -> DetectorConfig:
        config = host(num_classes, **options)
        return replace(
            config,
            head=replace(config.head, class_specific_first=False),
            localization=LocalizationConfig(jitter_per_truth=jitter_per_truth),
        )

    return build_config


HOSTS: dict[str, Callable[..., DetectorConfig]] = {
    "faster_rcnn": faster_rcnn,
    "mask_rcnn": mask_rcnn,
    "cascade_rcnn": cascade_rcnn,
    "cascade_3x3": cascade_3x3,
    "cascade_mask_rcnn": cascade_mask_rcnn,
    "htc": htc,
    "double_head": double_head,
    "tsd": tsd,
    "decoupled_rcnn": decoupled_rcnn,
}
MODELS: dict[str, Callable[..., DetectorConfig]] = {
    **HOSTS,
    **{f"{name}_dir": with_localization(host) for name, host in HOSTS.items()},
    # the flagship: both papers, and jittered boxes for /rescore
    "hindsight": with_localization(decoupled_rcnn, LocalizationConfig().jitter_per_truth),
}


def config_of(name: str, num_classes: int, **options: object) -> DetectorConfig:
    """Config of a named detector. Raises ValueError naming the nearest known name or option."""
    if name not in MODELS:
        raise ValueError(f"unknown detector {name!r}: {nearest(name, MODELS)}")
    known = [option for option in inspect.signature(MODELS[name]).parameters if option != "num_classes"]
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}: {nearest(option, known)}")
    return MODELS[name](num_classes, **options)


def build(name: str, num_classes: int, **options: object) -> TwoStageDetector:
    """A detector with random weights; options as the factory's (backbone, stages)."""
    return TwoStageDetector(config_of(name, num_classes, **options))
