"""Greedy non-maximum suppression in NumPy, for boxes that several passes of a model have found.

The models' own rule, hard and class by class: the best box comes first, and each that is kept removes those
after it that overlap it by more than a threshold. n: boxes, xyxy in one coordinate system.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["nms", "suppress"]


def nms(
    boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[np.int64], threshold: float
) -> NDArray[np.intp]:
    """The rows kept, best first; of equal scores the lower row goes first. threshold: IoU, 0..1."""
    return suppress(boxes, labels, np.argsort(-scores, kind="stable"), threshold)


def suppress(
    boxes: NDArray[Any],
    labels: NDArray[np.int64],
    order: NDArray[np.intp],
    threshold: float,
    *,
    parts: NDArray[np.bool_] | None = None,
) -> NDArray[np.intp]:
    """The rows kept, in `order` [n], which says who comes before whom.

    parts: bool [n], boxes that hold a part of their object only. The IoU of a part with its whole is small,
    so where one of two boxes is a part, their overlap is the shared area over that of the smaller one.
    """
    kept = np.zeros(len(boxes), np.bool_)
    partial = np.zeros(len(boxes), np.bool_) if parts is None else parts
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        kept[rows] = _kept(boxes[rows].astype(np.float64), threshold, partial[rows])
    return order[kept[order]]


def _kept(boxes: NDArray[np.float64], threshold: float, parts: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool [n], of boxes of one class, the best first.

    Each is compared with those near it alone: sorted by x1, they lie between the first that could reach it
    and the last that it reaches. So thousands of boxes on a large image take little time.
    """
    places = np.argsort(boxes[:, 0], kind="stable")
    x1, y1, x2, y2 = (np.ascontiguousarray(column) for column in boxes[places].T)
    areas, cut = np.maximum(x2 - x1, 0.0) * np.maximum(y2 - y1, 0.0), parts[places]
    first = np.searchsorted(x1, x1 - (x2 - x1).max(initial=0.0), "left")
    last = np.searchsorted(x1, x2, "left")
    alive = np.ones(len(boxes), np.bool_)
    kept = np.zeros(len(boxes), np.bool_)
    for rank, own in enumerate(np.argsort(places)):
        if not alive[own]:
            continue
        kept[rank] = True
        near = slice(first[own], last[own])
        width = np.minimum(x2[own], x2[near]) - np.maximum(x1[own], x1[near])
        height = np.minimum(y2[own], y2[near]) - np.maximum(y1[own], y1[near])
        shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
        smaller = np.minimum(areas[own], areas[near])
        measure = np.where(cut[own] | cut[near], smaller, areas[own] + areas[near] - shared)
        overlap = np.divide(shared, measure, out=np.zeros_like(shared), where=measure > 0)
        # Overlap is mutual: of those kept before, none goes.
        alive[near] &= overlap <= threshold
    return kept
