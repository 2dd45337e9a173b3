"""Average precision on many resamples of the images at once, from matches that were made once.

An image drawn twice counts each of its detections and objects twice; copies of a detection have one score, so
they stand together and the precision envelope never sees the rank between them: integer weights in the
cumulative sums give what evaluating the resampled list would.

m: detections of a class; I: images; R: resamples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hindsight.overlap import Array
from training.experiments.matching import THRESHOLDS, ClassMatches

RECALLS: Array = np.linspace(0, 1, 101)
_CHUNK = 64  # resamples at a time: keeps the cumulative sums in the cache
METRICS = {"AP": slice(None), "AP50": slice(0, 1), "AP75": slice(5, 6), "AP90": slice(8, 9)}


def ap_samples(classes: Sequence[ClassMatches], weights: NDArray[np.int64]) -> dict[str, Array]:
    """AP, AP50, AP75 and AP90 in 0..1 on every row of weights [1 + R, I]; NaN without an object to find."""
    # [classes, T, 1 + R]; a class without objects in a resample is left out of its mean
    table = np.stack([_class_samples(matches, weights) for matches in classes])
    found = {}
    for name, levels in METRICS.items():
        part = table[:, levels].reshape(-1, len(weights))
        defined = ~np.isnan(part)
        total, count = np.where(defined, part, 0.0).sum(axis=0), defined.sum(axis=0)
        found[name] = np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)
    return found


def _class_samples(matches: ClassMatches, weights: NDArray[np.int64]) -> Array:
    """[T, 1 + R]"""
    result = np.full((len(THRESHOLDS), len(weights)), np.nan)
    objects = weights @ matches.objects
    for start in range(0, len(weights), _CHUNK):
        rows = slice(start, start + _CHUNK)
        drawn = weights[rows][:, matches.image]  # [chunk, m]
        ranks = np.cumsum(drawn, axis=1)
        for level in range(len(THRESHOLDS)):
            right, counted = matches.right[level], matches.right[level] | matches.wrong[level]
            # only detections on crowds, which are rare, make a level's ranks differ from all others'
            own = ranks if counted.all() else np.cumsum(drawn * counted, axis=1)
            result[level, rows] = _level(drawn, own, right, objects[rows].astype(np.float64))
    return result


def _level(
    drawn: NDArray[np.int64], ranks: NDArray[np.int64], right: NDArray[np.bool_], objects: Array
) -> Array:
    """AP at one IoU threshold of every resample [chunk]: mean precision at 101 recalls, interpolated."""
    hits = np.flatnonzero(right)
    # the envelope only has corners where something right is found: nothing else needs a precision
    true = np.cumsum(drawn[:, hits], axis=1)
    precision = true / np.maximum(ranks[:, hits], 1)
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    result = np.full(len(drawn), np.nan)
    for index in np.flatnonzero(objects > 0):
        at = np.searchsorted(true[index] / objects[index], RECALLS, side="left")
        result[index] = envelope[index, at[at < len(hits)]].sum() / len(RECALLS)
    return result
