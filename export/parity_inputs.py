"""What parity is tried on: photos, drawn scenes, noise and nothing at all, in several sizes and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hindsight.artifact import Defaults, ResizeRule
from hindsight.preprocess import letterbox

Pixels = NDArray[np.uint8]
_BOXES = 24  # rescored boxes an image


@dataclass(frozen=True)
class ParityInput:
    """A batch: images [B, H, W, 3], sizes [B, 2], thresholds [B] each, nms_threshold [1], boxes [B, N, 4].

    featureless: no image has any content, so that equal scores abound.
    """

    name: str
    images: Pixels
    image_sizes: NDArray[np.int64]
    class_threshold: NDArray[np.float32]
    score_threshold: NDArray[np.float32]
    iou_weight: NDArray[np.float32]
    nms_threshold: NDArray[np.float32]
    boxes: NDArray[np.float32]
    num_boxes: NDArray[np.int64]
    featureless: bool = False

    @property
    def batch(self) -> int:
        """B"""
        return len(self.images)

    def detect_feeds(self) -> dict[str, NDArray[Any]]:
        """The inputs of model.onnx, in its order."""
        names = ("images", "image_sizes", "class_threshold", "score_threshold", "iou_weight", "nms_threshold")
        return {name: getattr(self, name) for name in names}

    def rescore_feeds(self) -> dict[str, NDArray[Any]]:
        """The inputs of rescore.onnx, in its order."""
        return {name: getattr(self, name) for name in ("images", "image_sizes", "boxes", "num_boxes")}


def parity_inputs(rule: ResizeRule, defaults: Defaults, photos: Sequence[Pixels] = ()) -> list[ParityInput]:
    """Batches of 1 to 4 over several sizes: at the model's own, smaller, tall, tiny; with noise, and black.

    Thresholds are the defaults in turn with low ones and with another weight, so that every input of the
    graph counts. `photos`: real images of any size; drawn scenes stand in for missing ones.
    """
    rng = np.random.default_rng(0)
    full = (rule.short_side, min(rule.long_side, rule.short_side * 4 // 3))
    half = (full[0] // 2, full[1] // 2)

    def photo(index: int, hw: tuple[int, int]) -> Pixels:
        if index >= len(photos):
            return _scene(rng, hw)
        return np.asarray(Image.fromarray(photos[index]).resize(hw[::-1], Image.Resampling.BILINEAR))

    plans: list[tuple[str, list[Pixels]]] = [
        ("one photo", [photo(0, full)]),
        ("two photos, half size", [photo(1, half), photo(2, (half[0], half[1] * 3 // 4))]),
        ("three tall photos", [photo(index, (half[1], half[0] - 7 * index)) for index in range(3)]),
        ("four small photos", [photo(index, (96 - 9 * index, 128)) for index in range(4)]),
        ("noise", [rng.integers(0, 256, (*half, 3), dtype=np.uint8)]),
        ("tiny", [_scene(rng, (20, 33))]),
        ("thin", [_scene(rng, (1, 100))]),
    ]
    inputs = [_batch(name, images, defaults, rng) for name, images in plans]
    black = np.zeros((*half, 3), np.uint8)
    return [*inputs, _batch("black", [black], defaults, rng, featureless=True)]


def _batch(
    name: str,
    images: Sequence[Pixels],
    defaults: Defaults,
    rng: np.random.Generator,
    *,
    featureless: bool = False,
) -> ParityInput:
    """Pad to the largest sides. Every other image is run with the defaults, the rest with low thresholds."""
    longest = max(max(image.shape[:2]) for image in images)
    boxed = [letterbox(image, ResizeRule(min(image.shape[:2]), longest)) for image in images]
    height, width = (max(item.image.shape[axis] for item in boxed) for axis in (0, 1))
    padded = np.zeros((len(images), height, width, 3), np.uint8)
    for target, item in zip(padded, boxed, strict=True):
        target[: item.image.shape[0], : item.image.shape[1]] = item.image
    sizes = np.array([item.valid_hw for item in boxed], np.int64)
    low = (min(defaults.class_threshold, 0.02), min(defaults.score_threshold, 0.02), 0.25)
    own = (defaults.class_threshold, defaults.score_threshold, defaults.iou_weight)
    choices = np.array(
        [own if len(images) > 1 and index % 2 else low for index in range(len(images))], np.float32
    )
    boxes = np.stack([_boxes(rng, hw) for hw in sizes.tolist()])
    counts = np.array([_BOXES - 5 * index for index in range(len(images))], np.int64)
    class_threshold, score_threshold, iou_weight = np.ascontiguousarray(choices.T)
    nms_threshold = np.array([defaults.nms_threshold], np.float32)
    return ParityInput(
        name,
        padded,
        sizes,
        class_threshold,
        score_threshold,
        iou_weight,
        nms_threshold,
        boxes,
        counts,
        featureless,
    )


def _boxes(rng: np.random.Generator, hw: Sequence[int]) -> NDArray[np.float32]:
    corners = np.sort(rng.uniform(0, 1, (_BOXES, 2, 2)), axis=1) * (hw[1], hw[0])
    return corners.reshape(_BOXES, 4).astype(np.float32)


def _scene(rng: np.random.Generator, hw: tuple[int, int]) -> Pixels:
    """Soft discs and boxes of many sizes on a gradient, with a little noise: structure at every scale."""
    rows, columns = np.mgrid[: hw[0], : hw[1]].astype(np.float64)
    scene = np.stack([rows / hw[0], columns / hw[1], (rows + columns) / sum(hw)], axis=-1) * 120 + 60
    for index in range(12):
        centre_y, centre_x = rng.uniform(0, hw[0]), rng.uniform(0, hw[1])
        radius_y, radius_x = rng.uniform(0.03, 0.25, 2) * max(hw)
        y, x = np.abs(rows - centre_y) / radius_y, np.abs(columns - centre_x) / radius_x
        inside = (y**2 + x**2 if index % 2 else np.maximum(y, x)) < 1
        scene[inside] = rng.uniform(0, 255, 3)
    return np.clip(scene + rng.normal(0, 4, scene.shape), 0, 255).astype(np.uint8)
