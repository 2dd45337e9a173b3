"""COCO's average precision of boxes, in numpy: what parity reports where a GPU host has no training packages.

IoU .5:.95, 101 recall points, all areas. A test holds it equal to faster-coco-eval's, which `hindsight
evaluate` uses.

n: boxes of an image. Boxes are xyxy, in the same pixels on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Objects:
    """What there is to find in one image: boxes [n, 4], labels [n]; crowds count neither for nor against."""

    boxes: NDArray[Any]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Found:
    """What a detector answered for one image: boxes [n, 4], labels [n], scores [n]."""

    boxes: NDArray[Any]
    labels: NDArray[np.int64]
    scores: NDArray[Any]


def average_precision(objects: Sequence[Objects], found: Sequence[Found]) -> float | None:
    """Mean over classes and IoUs, in 0..1; None where there is nothing to find. One entry an image, in the
    same order.
    """
    labels = np.unique(np.concatenate([o.labels[~o.crowd] for o in objects] or [np.zeros(0, np.int64)]))
    values = [_of_class(objects, found, int(label)) for label in labels]
    return float(np.mean(values)) if values else None


def _of_class(objects: Sequence[Objects], found: Sequence[Found], label: int) -> float:
    """Of one class that has objects."""
    judged = [_judge(own, answer, label) for own, answer in zip(objects, found, strict=True)]
    total = sum(int(((own.labels == label) & ~own.crowd).sum()) for own in objects)
    scores = np.concatenate([part[0] for part in judged])
    right, counted = (np.concatenate([part[index] for part in judged], axis=1) for index in (1, 2))
    order = np.argsort(-scores, kind="stable")
    return float(np.mean([_area(right[t, order], counted[t, order], total) for t in range(len(IOUS))]))


def _area(right: NDArray[np.bool_], counted: NDArray[np.bool_], total: int) -> float:
    """Under the precision-recall curve of ranked detections, precision made to fall only."""
    true, false = np.cumsum(right & counted), np.cumsum(~right & counted)
    recall = true / total
    precision = true / np.maximum(true + false, 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    return float(
        np.where(at < len(falling), np.append(falling, 0.0)[np.minimum(at, len(falling))], 0.0).mean()
    )


def _judge(own: Objects, answer: Found, label: int) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """(scores [d], right [10, d], counted [10, d]) of an image's detections of one class, best first."""
    rows = np.flatnonzero(answer.labels == label)
    rows = rows[np.argsort(-answer.scores[rows], kind="stable")]
    truths = np.flatnonzero(own.labels == label)
    truths = truths[np.argsort(own.crowd[truths], kind="stable")]  # a crowd takes what no object wants
    crowd = own.crowd[truths]
    overlap = _overlap(answer.boxes[rows], own.boxes[truths], crowd)
    right = np.zeros((len(IOUS), len(rows)), bool)
    counted = np.ones_like(right)
    for t, least in enumerate(IOUS):
        free = np.ones(len(truths), bool)
        for d in range(len(rows)):
            usable = (overlap[d] >= min(least, 1 - 1e-10)) & (free | crowd)
            chosen = usable & ~crowd if (usable & ~crowd).any() else usable
            if not chosen.any():
                continue
            # of equal overlaps COCO takes the last
            best = len(truths) - 1 - int(np.argmax(np.where(chosen, overlap[d], -1.0)[::-1]))
            free[best] = False
            right[t, d], counted[t, d] = not crowd[best], not crowd[best]
    return answer.scores[rows].astype(np.float64), right, counted


def _overlap(boxes: NDArray[Any], truths: NDArray[Any], crowd: NDArray[np.bool_]) -> Floats:
    """[d, g] IoU; with a crowd, the share of the box that it covers."""
    a, b = boxes.astype(np.float64)[:, None], truths.astype(np.float64)[None]
    sides = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None)
    shared = sides.prod(axis=-1)
    area, other = (np.clip(x[..., 2:] - x[..., :2], 0, None).prod(axis=-1) for x in (a, b))
    whole = np.where(crowd[None], area, area + other - shared)
    return np.asarray(shared / np.maximum(whole, 1e-12))
