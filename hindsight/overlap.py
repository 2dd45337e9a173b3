"""True overlap of boxes, in float64 and NumPy, and pairing two lists of them: the yardstick that predictions
are held against.

n, m: boxes, [n, 4] xyxy.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Array",
    "Overlap",
    "greedy_pairs",
    "over_smaller",
    "overlap_shares",
    "overlap_with",
    "pairwise_iou",
]

Array = NDArray[np.float64]


class Overlap(NamedTuple):
    """Each box against one ground truth, all [n]."""

    iou: Array
    purity: Array
    integrity: Array


def overlap_with(boxes: NDArray[Any], truths: NDArray[Any]) -> Overlap:
    """IoU, purity and integrity (DIR Eq. (1), (3), (4)) of box i against truth i; both [n, 4]."""
    overlap, area, truth_area = _parts(boxes, truths)
    return Overlap(
        _ratio(overlap, area + truth_area - overlap), _ratio(overlap, area), _ratio(overlap, truth_area)
    )


def pairwise_iou(first: NDArray[Any], second: NDArray[Any]) -> Array:
    """DIR Eq. (1) for every pair: [n, m]; 0 where both are empty."""
    overlap, area, other_area = _parts(first[:, None], second[None])
    return _ratio(overlap, area + other_area - overlap)


def overlap_shares(first: NDArray[Any], second: NDArray[Any]) -> Array:
    """[n, m] which share of the first's area the second covers; 0 for an empty first."""
    overlap, area, _ = _parts(first[:, None], second[None])
    return _ratio(overlap, area)


def over_smaller(first: NDArray[Any], second: NDArray[Any]) -> Array:
    """[n, m] which share of the smaller one's area the other covers; 0 where that one is empty."""
    overlap, area, other_area = _parts(first[:, None], second[None])
    return _ratio(overlap, np.minimum(area, other_area))


def greedy_pairs(worth: Array, least: float) -> list[tuple[int, int]]:
    """(row, column) pairs, each row and column once: the worthiest first, none worth less than `least`.

    Of equals the first row, then the first column.
    """
    rows, columns = np.nonzero(worth >= least)
    order = np.argsort(-worth[rows, columns], kind="stable")
    pairs: list[tuple[int, int]] = []
    taken_rows: set[int] = set()
    taken_columns: set[int] = set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in taken_rows and column not in taken_columns:
            pairs.append((row, column))
            taken_rows.add(row)
            taken_columns.add(column)
    return pairs


def _parts(first: NDArray[Any], second: NDArray[Any]) -> tuple[Array, Array, Array]:
    """The shared area, and each one's own."""
    a, b = first.astype(np.float64), second.astype(np.float64)
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.prod(np.maximum(sides, 0.0), axis=-1), _area(a), _area(b)


def _area(boxes: Array) -> Array:
    return np.asarray(np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0.0), axis=-1))


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
