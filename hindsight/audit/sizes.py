"""How large the objects of a class usually are in this data set, by its own annotations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["UsualSize", "usual_sizes"]

_NORMAL = 1.4826  # a median absolute deviation, times this, is the standard deviation of normal data
_LEAST_SPREAD = 0.05
_MOST = 6.0
_ENOUGH = 10  # annotations of a class that halve the doubt about what is usual


@dataclass(frozen=True, slots=True)
class UsualSize:
    """Of one class: the median and the spread of the logarithms of its areas, and how many there are."""

    median: float
    spread: float
    count: int

    def oddness(self, box: NDArray[Any]) -> float:
        """How many spreads the area of `box` xyxy lies from the median, 0 to 6; less where the class is rare,
        and its usual size hardly known.
        """
        area = float((box[2] - box[0]) * (box[3] - box[1]))
        if area <= 0:
            return 0.0
        away = min(_MOST, abs(math.log(area) - self.median) / self.spread)
        return away * self.count / (self.count + _ENOUGH)


def usual_sizes(annotations: Iterable[tuple[NDArray[Any], NDArray[np.int64]]]) -> Mapping[int, UsualSize]:
    """For each label that occurs. annotations: boxes [n, 4] xyxy and labels [n] of each image; labels below 0
    do not count.
    """
    areas: dict[int, list[float]] = {}
    for boxes, labels in annotations:
        sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
        for area, label in zip(np.prod(sides, axis=1).tolist(), labels.tolist(), strict=True):
            if label >= 0 and area > 0:
                areas.setdefault(label, []).append(math.log(area))
    found = {}
    for label, logs in areas.items():
        median = float(np.median(logs))
        spread = _NORMAL * float(np.median(np.abs(np.array(logs) - median))) + _LEAST_SPREAD
        found[label] = UsualSize(median, spread, len(logs))
    return found
