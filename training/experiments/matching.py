"""Which detections are right, image by image: COCO's greedy matching, done once for all resamples.

m: detections of one class over all images, best score first; I: images; T: IoU thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hindsight.overlap import Array, overlap_with, pairwise_iou
from training.evaluation.predictions import ImagePredictions

# as COCO makes them: its .9 and a written .9 differ in the last digit
THRESHOLDS: Array = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True, eq=False)
class Truths:
    """Ground truth of one image: boxes [g, 4] xyxy, labels [g], crowd [g]."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """All that AP needs of one class, on any resample of the images."""

    image: NDArray[np.int64]  # [m]
    right: NDArray[np.bool_]  # [T, m]
    wrong: NDArray[np.bool_]  # [T, m]; neither: it lies on a crowd region
    objects: NDArray[np.int64]  # [I], to be found


def match_classes(
    truths: Sequence[Truths], predictions: Sequence[ImagePredictions], classes: int
) -> list[ClassMatches]:
    """The matches of every class; predictions[i] are of truths[i]."""
    return [_match_class(truths, predictions, label) for label in range(classes)]


def _match_class(
    truths: Sequence[Truths], predictions: Sequence[ImagePredictions], label: int
) -> ClassMatches:
    images, scores, right, wrong = [], [], [], []
    objects = np.zeros(len(truths), np.int64)
    for index, (truth, found) in enumerate(zip(truths, predictions, strict=True)):
        own, crowd = truth.labels == label, truth.crowd
        objects[index] = int((own & ~crowd).sum())
        rows = np.flatnonzero(found.labels == label)
        rows = rows[np.argsort(-found.scores[rows], kind="stable")]
        hits, ignored = _greedy(found.boxes[rows], truth.boxes[own & ~crowd], truth.boxes[own & crowd])
        images.append(np.full(len(rows), index))
        scores.append(found.scores[rows].astype(np.float64))
        right.append(hits)
        wrong.append(~hits & ~ignored)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return ClassMatches(
        np.concatenate(images).astype(np.int64)[order],
        np.concatenate(right, axis=1)[:, order],
        np.concatenate(wrong, axis=1)[:, order],
        objects,
    )


def _greedy(
    boxes: NDArray[np.float32], objects: NDArray[np.float32], crowds: NDArray[np.float32]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(found an object, is ignored) [T, n] of boxes [n, 4], best score first.

    Each box takes the free object of highest IoU at or above the threshold, of equals the last, as COCO's
    code does; one that takes none is ignored if enough of it lies in a crowd.
    """
    hits = np.zeros((len(THRESHOLDS), len(boxes)), bool)
    ignored = np.zeros_like(hits)
    iou = pairwise_iou(boxes, objects)
    inside = np.zeros(len(boxes))
    for crowd in crowds:
        inside = np.maximum(inside, overlap_with(boxes, np.broadcast_to(crowd, boxes.shape)).purity)
    for level, threshold in enumerate(THRESHOLDS):
        least = min(threshold, 1 - 1e-10)
        free = np.ones(len(objects), bool)
        for row in range(len(boxes)):
            candidates = np.where(free, iou[row], -1.0)
            if candidates.max(initial=-1.0) >= least:
                best = len(candidates) - 1 - int(candidates[::-1].argmax())
                free[best] = False
                hits[level, row] = True
            else:
                ignored[level, row] = inside[row] >= least
    return hits, ignored
