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
    corners = boxes.astype(np.float64)
    areas = np.prod(np.maximum(corners[:, 2:] - corners[:, :2], 0.0), axis=1)
    partial = np.zeros(len(boxes), np.bool_) if parts is None else parts
    kept = np.zeros(len(boxes), np.bool_)
    for label in np.unique(labels):
        waiting = order[labels[order] == label]
        while len(waiting):
            best, waiting = waiting[0], waiting[1:]
            kept[best] = True
            own = corners[best]
            sides = np.minimum(own[2:], corners[waiting, 2:]) - np.maximum(own[:2], corners[waiting, :2])
            shared = np.prod(np.maximum(sides, 0.0), axis=1)
            either = partial[best] | partial[waiting]
            smaller = np.minimum(areas[best], areas[waiting])
            measure = np.where(either, smaller, areas[best] + areas[waiting] - shared)
            overlap = np.divide(shared, measure, out=np.zeros_like(shared), where=measure > 0)
            waiting = waiting[overlap <= threshold]
    return order[kept[order]]
