"""The input tensors of model.onnx and rescore.onnx, built from letterboxed images. The library and the
service both build them here.

B: batch. N: boxes an image. All images of a batch have one padded shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.options import DetectOptions
from hindsight.preprocess import Letterboxed

__all__ = ["detect_inputs", "rescore_inputs", "threshold_inputs"]


def detect_inputs(images: Sequence[Letterboxed], options: Sequence[DetectOptions]) -> dict[str, NDArray[Any]]:
    """The inputs of model.onnx. All `options` must share one nms_threshold, because the graph takes a single
    value.

    Raises ValueError where shapes or nms_thresholds differ.
    """
    return {**_image_inputs(images), **threshold_inputs(options)}


def threshold_inputs(options: Sequence[DetectOptions]) -> dict[str, NDArray[Any]]:
    """Those of them that are no images. Raises ValueError where nms_thresholds differ."""
    thresholds = {choice.nms_threshold for choice in options}
    if len(thresholds) != 1:
        raise ValueError(f"one batch takes one nms_threshold, got {sorted(thresholds)}")

    def column(name: str) -> NDArray[np.float32]:
        return np.array([getattr(choice, name) for choice in options], np.float32)

    return {
        "class_threshold": column("class_threshold"),
        "score_threshold": column("score_threshold"),
        "iou_weight": column("iou_weight"),
        "nms_threshold": np.array([options[0].nms_threshold], np.float32),
    }


def rescore_inputs(
    images: Sequence[Letterboxed], boxes: Sequence[NDArray[np.float32]]
) -> dict[str, NDArray[Any]]:
    """The inputs of rescore.onnx; `boxes[b]` float32 [n_b, 4] in INPUT pixels, padded with zero rows to the
    longest (at least 1).
    """
    counts = np.array([len(rows) for rows in boxes], np.int64)
    padded = np.zeros((len(boxes), max(1, int(counts.max(initial=0))), 4), np.float32)
    for row, own in zip(padded, boxes, strict=True):
        row[: len(own)] = own
    return {**_image_inputs(images), "boxes": padded, "num_boxes": counts}


def _image_inputs(images: Sequence[Letterboxed]) -> dict[str, NDArray[Any]]:
    first = images[0].image
    return {
        "images": first[None]
        if len(images) == 1
        else np.stack([lb.image for lb in images]),  # no copy of one
        "image_sizes": np.array([lb.valid_hw for lb in images], np.int64),
    }
