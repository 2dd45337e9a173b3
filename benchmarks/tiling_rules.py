"""Ways to make one answer of what tiles have found: the library's, and those it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hindsight.detections import Detections
from hindsight.nms import nms, suppress
from hindsight.overlap import over_smaller
from hindsight.tiling import Pooled

__all__ = ["RULES", "Rule"]

Rule = Callable[[Pooled, float], Detections]
"""Of all that was found, and a threshold of overlap, makes the answer, in any order."""


def by_score(pooled: Pooled, threshold: float) -> Detections:
    """The usual: NMS by IoU, the best score first."""
    found = pooled.detections
    return found.select(nms(found.boxes, found.scores, found.labels, threshold))


def by_class_score(pooled: Pooled, threshold: float) -> Detections:
    """NMS as a detector has to do it that does not know how good its boxes are."""
    found = pooled.detections
    return found.select(nms(found.boxes, found.class_scores, found.labels, threshold))


def by_integrity(pooled: Pooled, threshold: float) -> Detections:
    """NMS that believes boxes by score times predicted integrity: does that alone prefer whole objects?"""
    found = pooled.detections
    assert found.integrities is not None
    return found.select(nms(found.boxes, found.scores * found.integrities, found.labels, threshold))


def by_smaller(pooled: Pooled, threshold: float) -> Detections:
    """NMS by intersection over the smaller box, for all pairs."""
    found = pooled.detections
    everything = np.ones(len(found), np.bool_)
    order = np.argsort(-found.scores, kind="stable")
    return found.select(suppress(found.boxes, found.labels, order, threshold, parts=everything))


def united(pooled: Pooled, threshold: float) -> Detections:
    """Greedy merging: a box grows to hold those of its class that it would suppress by intersection over the
    smaller one.
    """
    found = pooled.detections
    boxes = found.boxes.copy()
    kept: list[int] = []
    for label in np.unique(found.labels):
        waiting = np.flatnonzero(found.labels == label)
        waiting = waiting[np.argsort(-found.scores[waiting], kind="stable")]
        while len(waiting):
            best, waiting = int(waiting[0]), waiting[1:]
            near = over_smaller(boxes[best][None], found.boxes[waiting])[0] > threshold
            taken = found.boxes[waiting[near]]
            boxes[best, :2] = np.minimum(boxes[best, :2], taken[:, :2].min(axis=0, initial=np.inf))
            boxes[best, 2:] = np.maximum(boxes[best, 2:], taken[:, 2:].max(axis=0, initial=-np.inf))
            kept.append(best)
            waiting = waiting[~near]
    return replace(found, boxes=boxes, masks=None).select(kept)


def edges_dropped(pooled: Pooled, threshold: float) -> Detections:
    """Boxes that end at their tile's edge go if another tile shows that place whole; then NMS."""
    return by_score(_without(pooled, pooled.cut & pooled.seen), threshold)


def whole_first(pooled: Pooled, threshold: float) -> Detections:
    """Nothing is dropped beforehand; whole boxes come first, and cut ones are suppressed by intersection over
    the smaller one.
    """
    found, cut = pooled.detections, pooled.cut
    order = np.lexsort((-found.scores, cut))
    return found.select(suppress(found.boxes, found.labels, order, threshold, parts=cut))


def dropped_whole_first(pooled: Pooled, threshold: float) -> Detections:
    """Both."""
    return whole_first(_without(pooled, pooled.cut & pooled.seen), threshold)


def finest(pooled: Pooled, threshold: float) -> Detections:
    """Both, and the pass over the whole image counts only where no tile shows the place whole: the
    library's rule.
    """
    return whole_first(_without(pooled, pooled.seen), threshold)


RULES: Mapping[str, Rule] = {
    "nms by class score": by_class_score,
    "nms": by_score,
    "nms by score x integrity": by_integrity,
    "nms, over the smaller": by_smaller,
    "greedy merging": united,
    "edges dropped": edges_dropped,
    "whole first": whole_first,
    "edges dropped, whole first": dropped_whole_first,
    "finest, whole first": finest,
}


def _without(pooled: Pooled, rows: NDArray[np.bool_]) -> Pooled:
    return Pooled(pooled.detections.select(~rows), pooled.cut[~rows], pooled.seen[~rows])
