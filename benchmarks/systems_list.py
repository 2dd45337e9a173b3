"""Every system of the two papers that this project builds, by name: the rows of docs/systems.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from model.config import DetectorConfig
from model.zoo import HOSTS, config_of
from training.recipe import override

Settings = Mapping[str, Any]
_NONE: Settings = MappingProxyType({})


@dataclass(frozen=True)
class System:
    """A named detector with `settings` (nested, as a recipe's [detector]) laid over it.

    `published`: (table, row label) of training/published with the paper's size, where it prints one.
    """

    group: str
    label: str
    model: str
    backbone: str = "resnet50"
    settings: Settings = field(default_factory=lambda: _NONE)
    published: tuple[str, str] | None = None

    def config(self, num_classes: int) -> DetectorConfig:
        """The detector at full size."""
        return override(config_of(self.model, num_classes, backbone=self.backbone), self.settings, self.label)


def _hosts() -> list[System]:
    sizes = {
        "faster_rcnn": ("drcnn:table8", "ResNet-50 FPN"),
        "decoupled_rcnn": ("drcnn:table8", "ResNet-50 Decoupled + cascade"),
    }
    rows = []
    for name in HOSTS:
        settings = {"head": {"class_specific_first": True}} if name == "decoupled_rcnn" else _NONE
        rows.append(System("Hosts", name, name, settings=settings, published=sizes.get(name)))
        rows.append(System("Hosts", f"{name}_dir", f"{name}_dir"))
    rows.append(System("Hosts", "hindsight (the flagship)", "hindsight"))
    return rows


def _backbones() -> list[System]:
    rows = [
        System(
            "Backbones",
            "ResNet-101",
            "faster_rcnn",
            "resnet101",
            published=("drcnn:table8", "ResNet-101 FPN"),
        ),
        System(
            "Backbones",
            "ResNeXt-101-32x4d",
            "faster_rcnn",
            "resnext101_32x4d",
            published=("drcnn:table8", "ResNeXt-101-32x4d FPN"),
        ),
        System(
            "Backbones",
            "ResNeXt-101-64x4d",
            "decoupled_rcnn",
            "resnext101_64x4d",
            {"head": {"class_specific_first": True}},
            ("drcnn:table9", "Ours* (ResNeXt-101-64x4d)"),
        ),
        System(
            "Backbones",
            "timm: tf_efficientnet_lite0",
            "hindsight",
            "tf_efficientnet_lite0",
            {"backbone": {"min_level": 3}, "rpn": {"anchor_sizes": (32, 64, 128, 256)}},
        ),
    ]
    for version in ("v1", "v2"):
        settings = {"backbone": {"deformable": version}}
        rows.append(System("Backbones", f"DCN {version}", "faster_rcnn", settings=settings))
        rows.append(System("Backbones", f"DCN {version} + DIR", "faster_rcnn_dir", settings=settings))
    return rows


def _localization() -> list[System]:
    variants: dict[str, Settings] = {
        "hindsight IoU": {"kind": "iou"},
        "parameter-matched control": {"kind": "iou_control"},
        "foresight P&I": {"train_features": "proposal", "test_features": "proposal"},
        "foresight IoU": {"kind": "iou", "train_features": "proposal", "test_features": "proposal"},
        "trained on proposals, looks at boxes": {"train_features": "proposal"},
        "trained on boxes, looks at proposals": {"test_features": "proposal"},
    }
    for rule in ("geometric", "arithmetic", "purity", "integrity"):
        variants[f"combination: {rule}"] = {"combination": rule}
    return [
        System("DIR", label, "faster_rcnn_dir", settings={"localization": settings})
        for label, settings in variants.items()
    ]


def _suppression() -> list[System]:
    kinds: dict[str, Settings] = {
        "soft-NMS, linear": {"kind": "soft_linear"},
        "soft-NMS, gaussian": {"kind": "soft_gaussian"},
        "IoU-guided NMS": {"kind": "iou_guided"},
        "class-agnostic NMS": {"class_agnostic": True},
    }
    return [
        System("NMS", label, "faster_rcnn_dir", settings={"nms": settings})
        for label, settings in kinds.items()
    ]


def _decoupled() -> list[System]:
    first: Settings = {"class_specific_first": True}
    heads: dict[str, tuple[Settings, str | None]] = {
        "one stage": (first | {"stages": 1}, "ResNet-50 Decoupled"),
        "two stages": (first | {"stages": 2}, None),
        "four stages": (first | {"stages": 4}, None),
        "class-agnostic": ({}, None),
        "shared FC": ({"stages": 1, "share_trunk": True}, None),
        "Double-Head": (first | {"stages": 1, "regressor": "conv"}, "ResNet-50 Decoupled + Double-Head"),
        "cascade + Double-Head": (
            first | {"regressor": "conv"},
            "ResNet-50 Decoupled + cascade + Double-Head",
        ),
    }
    rows = [
        System(
            "Decoupled R-CNN",
            label,
            "decoupled_rcnn",
            settings={"head": settings},
            published=None if row is None else ("drcnn:table11", row),
        )
        for label, (settings, row) in heads.items()
    ]
    rows.append(
        System("Decoupled R-CNN", "soft-NMS", "decoupled_rcnn", settings={"nms": {"kind": "soft_linear"}})
    )
    for box in (1, 2, 3):
        for classifier in (1, 2, 3):
            stages = {"test_boxes": box, "test_classifier": classifier}
            published = ("drcnn:table10", f"Decoupled R-CNN box {box} class {classifier}")
            rows.append(
                System(
                    "Decoupled R-CNN",
                    f"3x3 cascade, box {box} class {classifier}",
                    "cascade_3x3",
                    "resnet101",
                    {"head": stages},
                    published if box == 3 else None,
                )
            )
    return rows


SYSTEMS = [*_hosts(), *_backbones(), *_localization(), *_suppression(), *_decoupled()]
