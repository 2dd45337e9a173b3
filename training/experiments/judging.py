"""What a table says of claims 1 to 4: correlations and average precisions of many confidences.

No model is needed. A system is a name and the confidence it gives every box; "class score" gives none of its
own. Samples [1 + R]: the whole set, then the resamples (bootstrap.py). n: boxes; I: images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hindsight.overlap import Array, pairwise_iou
from model.config import DetectorConfig
from model.localization import COMBINATIONS
from model.ranking import rank
from model.structures import Candidates
from training.evaluation.localization import MIN_CLASS_SCORE, MIN_TRUE_IOU
from training.evaluation.predict import (
    CLASS_THRESHOLD,
    IOU_WEIGHT,
    NMS_THRESHOLD,
    SCORE_THRESHOLD,
    Progress,
)
from training.evaluation.predictions import ImagePredictions
from training.experiments.bootstrap import mean_samples, pearson_samples
from training.experiments.files import write_npz
from training.experiments.heads import BOX, PROPOSAL
from training.experiments.matching import match_classes
from training.experiments.sampled_ap import ap_samples
from training.experiments.table import RowTable

Confidence = Callable[[RowTable], Array | None]
Samples = dict[str, dict[str, Array]]  # metric -> system -> [1 + R]
CLASS_SCORE = "class score"


def _says(head: str, features: str) -> Confidence:
    return lambda table: table.column(head, features)


def _combined(rule: str) -> Confidence:
    def confidence(table: RowTable) -> Array:
        purity, integrity = (
            torch.from_numpy(table.column("hindsight-pi", BOX, part)) for part in ("purity", "integrity")
        )
        value: Tensor = COMBINATIONS[rule](purity, integrity)
        return value.numpy()

    return confidence


CONFIDENCES: dict[str, Confidence] = {
    CLASS_SCORE: lambda table: None,
    "foresight IoU": _says("foresight-iou", PROPOSAL),
    "foresight P&I": _says("foresight-pi", PROPOSAL),
    "hindsight IoU": _says("hindsight-iou", BOX),
    "control": _says("control", BOX),
    "hindsight P&I": _says("hindsight-pi", BOX),
    "Eq. (5)": _says("hindsight-pi", BOX),
    "integrity": _combined("integrity"),
    "purity": _combined("purity"),
    "geometric mean": _combined("geometric"),
    "arithmetic mean": _combined("arithmetic"),
    "box / box": _says("hindsight-pi", BOX),
    "box / proposal": _says("hindsight-pi", PROPOSAL),
    "proposal / box": _says("foresight-pi", BOX),
    "proposal / proposal": _says("foresight-pi", PROPOSAL),
}


def correlations(table: RowTable, systems: Sequence[str], weights: NDArray[np.int64]) -> Samples:
    """Pearson with the true IoU, and the mean absolute error of it, over the population of (box, class) rows.

    The class score claims to be no IoU: it has no error.
    """
    row, label, true_iou = population(table)
    image = table.image[row]
    scores = table.class_scores[row, label].astype(np.float64)
    found: Samples = {"Pearson": {}, "MAE": {}}
    for name in systems:
        confidence = CONFIDENCES[name](table)
        values = scores if confidence is None else confidence[row]
        found["Pearson"][name] = pearson_samples(values, true_iou, image, weights)
        if confidence is not None:
            found["MAE"][name] = mean_samples(np.abs(values - true_iou), image, weights)
    return found


def population(table: RowTable) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """(row of the table, class, true IoU) of every confident (box, class) on an object of its class."""
    row, label = np.nonzero(table.class_scores > MIN_CLASS_SCORE)
    true_iou = np.zeros(len(row))
    for index, truth in enumerate(table.truths()):
        own = np.flatnonzero(table.image[row] == index)
        objects, labels = truth.boxes[~truth.crowd], truth.labels[~truth.crowd]
        iou = pairwise_iou(table.boxes[row[own]], objects)
        true_iou[own] = np.where(label[own, None] == labels[None], iou, 0.0).max(axis=1, initial=0.0)
    kept = true_iou >= MIN_TRUE_IOU
    return row[kept], label[kept], true_iou[kept]


def rankings(
    table: RowTable,
    systems: Sequence[str],
    weights: NDArray[np.int64],
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Samples:
    """AP, AP75 and AP90 of the boxes ranked by sqrt(class score * confidence), or by the class score alone.

    `cache`: a folder that keeps what was computed, under the table's digest.
    """
    metrics = ("AP", "AP75", "AP90")
    found: Samples = {metric: {} for metric in metrics}
    prefix = f"{table.digest()}-{len(weights) - 1}" if cache is not None else ""
    for name in systems:
        file = None if cache is None else cache / f"{prefix}-{name.replace('/', 'x').replace(' ', '')}.npz"
        if file is not None and file.is_file():
            with np.load(file, allow_pickle=False) as kept:
                samples = dict(kept)
        else:
            matches = match_classes(table.truths(), ranked(table, name), table.class_scores.shape[1])
            samples = ap_samples(matches, weights)
            if file is not None:
                write_npz(file, samples)
        for metric in metrics:
            found[metric][name] = samples[metric]
        if progress is not None:
            progress(1)
    return found


def ranked(table: RowTable, system: str) -> list[ImagePredictions]:
    """Kept detections of every image, by the detector's own ranking and suppression."""
    confidence = CONFIDENCES[system](table)
    config = DetectorConfig(table.class_scores.shape[1])
    weight = 0.0 if confidence is None else IOU_WEIGHT
    images = []
    for index, image_id in enumerate(table.image_ids):
        own = np.flatnonzero(table.image == index)
        if not len(own):
            images.append(_nothing(int(image_id)))
            continue
        candidates = Candidates(
            torch.from_numpy(table.boxes[own])[None],
            torch.from_numpy(table.class_scores[own])[None],
            None if confidence is None else torch.from_numpy(confidence[own].astype(np.float32))[None],
            None,
            None,
        )
        output = rank(
            candidates,
            torch.full((1,), CLASS_THRESHOLD),
            torch.full((1,), SCORE_THRESHOLD),
            torch.full((1,), weight),
            torch.full((1,), NMS_THRESHOLD),
            config,
        )
        kept = slice(0, int(output.num_detections[0]))
        columns = (output.boxes, output.labels, output.scores, output.class_scores)
        boxes, labels, scores, class_scores = (column[0, kept].numpy() for column in columns)
        images.append(ImagePredictions(int(image_id), boxes, labels, scores, class_scores))
    return images


def _nothing(image_id: int) -> ImagePredictions:
    none = np.zeros(0, np.float32)
    return ImagePredictions(image_id, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), none, none)


def stacked(per_seed: Sequence[Samples]) -> Mapping[str, dict[str, Array]]:
    """Samples of several seeds: metric -> system -> [S, 1 + R]."""
    first = per_seed[0]
    return {
        metric: {name: np.stack([seed[metric][name] for seed in per_seed]) for name in systems}
        for metric, systems in first.items()
    }
