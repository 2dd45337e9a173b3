"""Detectors by name. A name is a factory function; `build(name, num_classes, ...)` is all there is to it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

from model.config import BackboneConfig, DetectorConfig, HeadConfig, LocalizationConfig, RpnConfig, nearest
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


def faster_rcnn_dir(num_classes: int, backbone: str = "resnet50") -> DetectorConfig:
    """Faster R-CNN with the DIR head: class-agnostic regression (DIR §4.2)."""
    return DetectorConfig(
        num_classes,
        BackboneConfig(backbone),
        head=HeadConfig(kind="shared", stages=1),
        localization=LocalizationConfig(),
    )


def decoupled_rcnn(num_classes: int, backbone: str = "resnet50", stages: int = 3) -> DetectorConfig:
    """Decoupled R-CNN (DRCNN): own sample and own weights per task, cascaded regressors."""
    return DetectorConfig(
        num_classes, BackboneConfig(backbone), head=HeadConfig(stages=stages), localization=None
    )


def hindsight(num_classes: int, backbone: str = "resnet50", stages: int = 3) -> DetectorConfig:
    """The flagship: Decoupled R-CNN with the DIR head on its final boxes."""
    return replace(decoupled_rcnn(num_classes, backbone, stages), localization=LocalizationConfig())


MODELS: dict[str, Callable[..., DetectorConfig]] = {
    "faster_rcnn": faster_rcnn,
    "faster_rcnn_dir": faster_rcnn_dir,
    "decoupled_rcnn": decoupled_rcnn,
    "hindsight": hindsight,
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
