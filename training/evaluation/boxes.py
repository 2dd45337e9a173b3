"""True overlap of boxes, in float64 and numpy: the yardstick that predictions are held against.

n: boxes; g: ground truths. Boxes are xyxy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Overlap(NamedTuple):
    """Each box against one ground truth, all [n]."""

    iou: Array
    purity: Array
    integrity: Array


def pairwise_iou(boxes: NDArray[Any], truths: NDArray[Any]) -> Array:
    """DIR Eq. (1) for every pair: [n, g]; 0 where both are empty."""
    overlap, area, truth_area = _parts(boxes[:, None], truths[None])
    return _ratio(overlap, area + truth_area - overlap)


def overlap_with(boxes: NDArray[Any], truths: NDArray[Any]) -> Overlap:
    """IoU, purity and integrity (DIR Eq. (1), (3), (4)) of box i against truth i; both [n, 4]."""
    overlap, area, truth_area = _parts(boxes, truths)
    return Overlap(
        _ratio(overlap, area + truth_area - overlap), _ratio(overlap, area), _ratio(overlap, truth_area)
    )


def _parts(boxes: NDArray[Any], truths: NDArray[Any]) -> tuple[Array, Array, Array]:
    b, t = boxes.astype(np.float64), truths.astype(np.float64)
    sides = np.minimum(b[..., 2:], t[..., 2:]) - np.maximum(b[..., :2], t[..., :2])
    overlap = np.prod(np.maximum(sides, 0.0), axis=-1)
    area = np.prod(np.maximum(b[..., 2:] - b[..., :2], 0.0), axis=-1)
    truth_area = np.prod(np.maximum(t[..., 2:] - t[..., :2], 0.0), axis=-1)
    return overlap, area, truth_area


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
