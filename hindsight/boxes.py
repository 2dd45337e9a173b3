"""Checks on boxes that come from outside, before a model is asked about them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import BoxesError

__all__ = ["check_boxes"]

_EXPECTED = "boxes must be a list of [x1, y1, x2, y2] numbers"
_ROUNDING = 1.0  # px: other tools write boxes whose last digit lies just outside the image


def check_boxes(boxes: Any, image_hw: tuple[int, int], *, max_boxes: int) -> NDArray[np.float32]:
    """`boxes` (anything numpy takes) as float32 [n, 4] xyxy in pixels of an image of `image_hw`, clipped to
    it.

    A box may pass the image's edge by a pixel, as rounding makes them. Raises BoxesError naming the first bad
    row, for a wrong shape, more than max_boxes, a value that is not finite, x2 <= x1 or y2 <= y1, or a box
    outside the image. No boxes at all are fine.
    """
    try:
        if hasattr(boxes, "__len__") and len(boxes) > max_boxes:
            raise BoxesError(f"{len(boxes)} boxes; at most {max_boxes} are accepted in one call")
        raw = np.asarray(boxes)
        if raw.dtype.kind not in "iuf":  # texts, truth values, nothing: numpy would make numbers of them
            raise BoxesError(_EXPECTED)
        given = raw.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise BoxesError(_EXPECTED) from None
    if given.size == 0 and given.shape in ((0,), (0, 4)):
        return np.zeros((0, 4), np.float32)
    if given.ndim != 2 or given.shape[1] != 4:
        raise BoxesError(f"expected boxes of shape [n, 4], got {list(given.shape)}")
    height, width = image_hw
    x1, y1, x2, y2 = given.T
    _refuse(~np.isfinite(given).all(axis=1), given, "has a coordinate that is not finite")
    _refuse((x2 <= x1) | (y2 <= y1), given, "is empty or inverted; expected x1 < x2 and y1 < y2")
    outside = (x1 < -_ROUNDING) | (y1 < -_ROUNDING) | (x2 > width + _ROUNDING) | (y2 > height + _ROUNDING)
    _refuse(outside, given, f"leaves the image, which is {width} x {height} pixels")
    clipped = np.clip(given, 0, [width, height, width, height])
    _refuse(
        (clipped[:, 2:] <= clipped[:, :2]).any(axis=1),
        given,
        f"lies outside the image, which is {width} x {height} pixels",
    )
    return clipped.astype(np.float32)


def _refuse(bad: Any, boxes: NDArray[np.float64], what: str) -> None:
    if bad.any():
        row = int(bad.argmax())
        raise BoxesError(f"box {row} {[round(float(value), 3) for value in boxes[row]]} {what}")
