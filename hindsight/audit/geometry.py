"""Overlaps of boxes, and pairing two lists of them. Boxes are [n, 4] xyxy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["greedy_pairs", "overlap_shares", "pairwise_iou"]

Array = NDArray[np.float64]


def pairwise_iou(first: NDArray[Any], second: NDArray[Any]) -> Array:
    """[n, m] IoU of every pair; 0 where both are empty."""
    overlap = _overlap(first, second)
    union = _area(first)[:, None] + _area(second)[None] - overlap
    return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


def overlap_shares(first: NDArray[Any], second: NDArray[Any]) -> Array:
    """[n, m] which share of the first's area the second covers; 0 for an empty first."""
    overlap = _overlap(first, second)
    area = np.broadcast_to(_area(first)[:, None], overlap.shape)
    return np.divide(overlap, area, out=np.zeros_like(overlap), where=area > 0)


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


def _overlap(first: NDArray[Any], second: NDArray[Any]) -> Array:
    a, b = first.astype(np.float64)[:, None], second.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.asarray(np.prod(np.maximum(sides, 0.0), axis=-1))


def _area(boxes: NDArray[Any]) -> Array:
    sides = boxes.astype(np.float64)[:, 2:] - boxes.astype(np.float64)[:, :2]
    return np.asarray(np.prod(np.maximum(sides, 0.0), axis=-1))
