"""What tests of exported graphs share: toy detectors, their artifacts, inputs, and comparing answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.parity import Filters, Tolerance, compare_detections, detections_of
from export.to_onnx import Description, Exported, export_artifact
from hindsight.artifact import Defaults
from model.checkpoint import save_checkpoint
from model.config import BackboneConfig, DetectorConfig, RpnConfig
from model.detector import TwoStageDetector

EXTRA = {
    "class_names": ["round", "square"],
    "resize": {"short_side": 96, "long_side": 160, "pad_multiple": 32},
    "recipe": {"model": "toy"},
}
ABOUT = Description(
    "toy",
    description="Rounds and squares",
    training_data={"name": "drawings"},
    metrics={"AP": 0.5, "AP50": 0.75},
    licence="Apache-2.0",
    defaults=Defaults(0.2, 0.2, 0.5, 0.5),
    max_rescore_boxes=50,
)


def toy_of(config: DetectorConfig, **parts: Any) -> TwoStageDetector:
    """`config` on a small backbone and with few proposals, in evaluation mode; `parts` replace sections."""
    torch.manual_seed(0)
    toy = replace(
        config,
        backbone=BackboneConfig("test_efficientnet", min_level=3, fpn_channels=16, frozen_levels=0),
        rpn=RpnConfig(anchor_sizes=(16, 32, 64, 128), pre_nms_test=60, post_nms_test=40),
        max_detections=20,
        **parts,
    )
    return TwoStageDetector(toy).eval()


def lively(detector: TwoStageDetector) -> TwoStageDetector:
    """Untrained heads answer every box alike: larger weights give answers that no wrong graph would."""
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if name.endswith(("deltas.weight", "logits.weight", "objectness.weight")):
                parameter.mul_(8)
    return detector


def export_toy(detector: TwoStageDetector, folder: Path) -> Exported:
    """Its checkpoint and its artifact, both in `folder`."""
    save_checkpoint(folder / "toy.safetensors", detector, EXTRA)
    return export_artifact(folder / "toy.safetensors", folder / "toy", ABOUT)


def feeds_of(batch: int, height: int, width: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (batch, height // 8, width // 8, 3), dtype=np.uint8)
    images = coarse.repeat(8, axis=1).repeat(8, axis=2)
    sizes = np.array([[height - 5 * index, width - 9 * index] for index in range(batch)], np.int64)
    for image, (valid_h, valid_w) in zip(images, sizes, strict=True):
        image[valid_h:] = 0
        image[:, valid_w:] = 0
    return {
        "images": images,
        "image_sizes": sizes,
        "class_threshold": np.linspace(0.02, 0.3, batch, dtype=np.float32),
        "score_threshold": np.linspace(0.1, 0.0, batch, dtype=np.float32),
        "iou_weight": np.linspace(0.0, 1.0, batch, dtype=np.float32),
        "nms_threshold": np.array([0.6], np.float32),
    }


def assert_same(
    expected: Mapping[str, NDArray[Any]],
    found: Mapping[str, NDArray[Any]],
    feeds: Mapping[str, NDArray[Any]],
    tolerance: Tolerance,
) -> int:
    assert set(expected) == set(found)
    matched = 0
    for image in range(len(feeds["images"])):
        filters = Filters(
            *(float(feeds[name][image]) for name in ("class_threshold", "score_threshold")), 0.6
        )
        own, other = detections_of(expected, image), detections_of(found, image)
        result = compare_detections(own, other, filters, 20, tolerance, featureless=False)
        assert result.outliers(tolerance) == 0
        matched += result.matched
    return matched
