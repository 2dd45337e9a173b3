"""Where to cut: the score threshold at which detections of a set have the best F1.

A detection is right when it is the most confident one on an object of its class, with an IoU of at least .5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hindsight.overlap import Array, overlap_with, pairwise_iou
from training.data.dataset import Dataset
from training.evaluation.predictions import ImagePredictions

MIN_IOU = 0.5
THRESHOLDS = np.arange(1, 20) / 20  # a round number generalises as well as a precise one


@dataclass(frozen=True)
class OperatingPoint:
    """What a score threshold gives, over all classes together."""

    score_threshold: float
    precision: float
    recall: float
    f1: float


def best_operating_point(dataset: Dataset, predictions: Sequence[ImagePredictions]) -> OperatingPoint | None:
    """The threshold of best F1 among .05, .10 ... .95, the lower of equals; None without objects.

    Detections mostly inside a crowd region count neither for nor against.
    """
    found = {image.image_id: image for image in predictions}
    scores, right, objects = [np.zeros(0)], [np.zeros(0, dtype=bool)], 0
    for index in range(len(dataset)):
        sample = dataset.annotations(index)
        objects += int((~sample.crowd).sum())
        image = found.get(sample.image_id)
        if image is None or not len(image):
            continue
        hit = _hits(image, sample.boxes[~sample.crowd], sample.labels[~sample.crowd])
        counted = hit | ~_in_crowd(image.boxes, sample.boxes[sample.crowd])
        scores.append(image.scores[counted].astype(np.float64))
        right.append(hit[counted])
    if not objects:
        return None
    return _best(np.concatenate(scores), np.concatenate(right), objects)


def _hits(
    image: ImagePredictions, truth_boxes: NDArray[np.float32], truth_labels: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which detections are right; best score first, each object is found once."""
    iou = np.where(image.labels[:, None] == truth_labels[None], pairwise_iou(image.boxes, truth_boxes), 0.0)
    free = np.ones(len(truth_boxes), dtype=bool)
    hit = np.zeros(len(image), dtype=bool)
    for row in np.argsort(-image.scores, kind="stable"):
        candidates = np.where(free, iou[row], 0.0)
        if candidates.max(initial=0.0) >= MIN_IOU:
            free[candidates.argmax()] = False
            hit[row] = True
    return hit


def _in_crowd(boxes: NDArray[np.float32], crowds: NDArray[np.float32]) -> NDArray[np.bool_]:
    inside = np.zeros(len(boxes), dtype=bool)
    for crowd in crowds:
        # purity: the share of the box that lies in the region
        inside |= overlap_with(boxes, np.broadcast_to(crowd, boxes.shape)).purity > MIN_IOU
    return inside


def _best(scores: Array, right: NDArray[np.bool_], objects: int) -> OperatingPoint:
    points = []
    for threshold in THRESHOLDS:
        shown = scores >= threshold
        hits = int((shown & right).sum())
        precision = hits / max(int(shown.sum()), 1)
        recall = hits / objects
        f1 = 2 * hits / (int(shown.sum()) + objects)
        points.append(OperatingPoint(float(threshold), precision, recall, f1))
    return max(points, key=lambda point: (point.f1, -point.score_threshold))
