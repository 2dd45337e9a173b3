"""Backbones have the published numbers of parameters, and the names under which weights are published."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch
import torchvision
from torch import nn

from benchmarks.detector_facts import first_stage
from model.backbone import build_backbone
from model.complexity import parameters
from model.config import BackboneConfig
from model.zoo import config_of

CLASSIFIER = 2048 * 1000 + 1000
# torchvision states these of its weights, timm the third
WHOLE_NETWORK = {
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnext101_32x4d": 44_177_704,
    "resnext101_64x4d": 83_455_272,
}
# channels of the 3x3 in C3, C4, C5: 64 groups of 4, of 8, of 16 in a ResNeXt-101-64x4d, and so on
WIDTHS = {
    "resnet50": (128, 256, 512),
    "resnet101": (128, 256, 512),
    "resnext101_32x4d": (256, 512, 1024),
    "resnext101_64x4d": (512, 1024, 2048),
}
BLOCKS = {name: (4, 6 if name == "resnet50" else 23, 3) for name in WIDTHS}
CHANNELS = {"none": 0, "v1": 9 * 2, "v2": 9 * 3}


def backbone(name: str, deformable: str = "none") -> nn.Module:
    with torch.device("meta"):  # shapes only
        return build_backbone(BackboneConfig(name, deformable=deformable))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", WHOLE_NETWORK)
def test_counts_are_the_published_ones_less_the_classifier(name: str) -> None:
    assert count(backbone(name)) == WHOLE_NETWORK[name] - CLASSIFIER


@pytest.mark.parametrize("name", WHOLE_NETWORK)
@pytest.mark.parametrize("deformable", ["v1", "v2"])
def test_deformable_convolutions_add_their_offset_convolutions(name: str, deformable: str) -> None:
    out = CHANNELS[deformable]
    extra = sum(
        blocks * (out * 9 * width + out) for blocks, width in zip(BLOCKS[name], WIDTHS[name], strict=True)
    )
    assert count(backbone(name, deformable)) == WHOLE_NETWORK[name] - CLASSIFIER + extra


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnext101_64x4d"])
def test_names_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None)
    assert shapes(theirs) == shapes(backbone(name))


def test_names_and_shapes_of_the_one_that_torchvision_lacks_are_timms() -> None:
    with torch.device("meta"):
        theirs = timm.create_model("resnext101_32x4d", pretrained=False)
    assert shapes(theirs) == shapes(backbone("resnext101_32x4d"))


def shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in network.state_dict().items() if not key.startswith("fc.")}


@pytest.mark.parametrize(
    ("detector", "name", "deformable", "millions"),
    [
        ("faster_rcnn", "resnet101", "none", 60.52),
        ("faster_rcnn", "resnext101_32x4d", "none", 60.16),
        # Its rows "DCNv2" count 18 offset channels a convolution, which is v1: v2 has 27.
        ("faster_rcnn", "resnet101", "v1", 61.81),
        ("faster_rcnn", "resnext101_32x4d", "v1", 62.73),
        ("decoupled_rcnn", "resnet101", "none", 102.22),
        ("decoupled_rcnn", "resnext101_32x4d", "none", 101.85),
        ("decoupled_rcnn", "resnext101_64x4d", "none", 140.94),
    ],
)
def test_detectors_on_them_have_the_sizes_of_drcnn_table_ix(
    detector: str, name: str, deformable: str, millions: float
) -> None:
    config = config_of(detector, 80, backbone=name)
    config = first_stage(config, class_specific=True)
    config = replace(config, backbone=replace(config.backbone, deformable=deformable))
    assert round(parameters(config) / 1e6, 2) == millions
