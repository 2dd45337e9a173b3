"""How well scores tell how well boxes lie: correlation, error per IoU decile, calibration.

Populations (PAPERS.md section 7):
- a checkpoint: decoded (box, class) rows before NMS with class score > .05 and best same-class IoU >= .5;
- an artifact: only kept detections exist, so its rows are those, filtered alike, and labelled so:
  suppression removes the worse boxes of each object, which narrows the spread and lowers correlations.
  Never compare one with the other.
- calibration error: matched kept detections for both.

n: rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.overlap import Array, overlap_with, pairwise_iou
from training.data.dataset import Dataset
from training.evaluation.predictions import ImagePredictions

MIN_CLASS_SCORE = 0.05
MIN_TRUE_IOU = 0.5
MIN_ROWS = 3  # two points always lie on a line
BINS = 10

BEFORE_NMS = "decoded (box, class) rows before NMS, class score > .05, best same-class IoU >= .5"
KEPT = "kept detections (after NMS), class score > .05, best same-class IoU >= .5"


@dataclass(frozen=True, eq=False)
class LocalizationRows:
    """Boxes matched to their ground truth; every column [n] float64."""

    class_score: Array
    iou: Array
    purity: Array
    integrity: Array
    true_iou: Array
    true_purity: Array
    true_integrity: Array

    def __len__(self) -> int:
        return len(self.true_iou)

    @property
    def fused(self) -> Array:
        """sqrt(class score * predicted IoU), DIR's geometric mean."""
        return np.sqrt(self.class_score * self.iou)

    @staticmethod
    def concatenate(parts: Sequence[LocalizationRows]) -> LocalizationRows:
        """All rows of `parts`, in order."""
        columns = [
            np.concatenate([getattr(part, field.name) for part in parts]) if parts else np.zeros(0)
            for field in fields(LocalizationRows)
        ]
        return LocalizationRows(*columns)


def match_rows(
    boxes: NDArray[Any],
    labels: NDArray[np.int64],
    class_scores: NDArray[Any],
    qualities: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    truth_boxes: NDArray[Any],
    truth_labels: NDArray[np.int64],
) -> LocalizationRows:
    """The rows of one image that belong to the population, each against its best ground truth of the same
    class.

    boxes [n, 4], labels [n], class_scores [n], qualities (ious, purities, integrities) [n]; truths [g, 4],
    [g].
    """
    confident = class_scores > MIN_CLASS_SCORE
    same_class = labels[:, None] == truth_labels[None]
    true_iou = np.where(same_class, pairwise_iou(boxes, truth_boxes), 0.0)
    best = true_iou.argmax(axis=1) if len(truth_boxes) else np.zeros(len(boxes), np.int64)
    matched = true_iou.max(axis=1, initial=0.0) >= MIN_TRUE_IOU
    rows = np.flatnonzero(confident & matched)
    true = overlap_with(boxes[rows], truth_boxes[best[rows]])
    iou, purity, integrity = (part[rows].astype(np.float64) for part in qualities)
    return LocalizationRows(
        class_score=class_scores[rows].astype(np.float64),
        iou=iou,
        purity=purity,
        integrity=integrity,
        true_iou=true.iou,
        true_purity=true.purity,
        true_integrity=true.integrity,
    )


def kept_rows(dataset: Dataset, predictions: Sequence[ImagePredictions]) -> LocalizationRows | None:
    """The population of kept detections; None for a detector without a localization head."""
    samples = [dataset.annotations(index) for index in range(len(dataset))]
    truths = {sample.image_id: sample for sample in samples}
    parts = []
    for image in predictions:
        if image.ious is None or image.purities is None or image.integrities is None:
            return None
        truth = truths[image.image_id]
        objects = ~truth.crowd
        parts.append(
            match_rows(
                image.boxes,
                image.labels,
                image.class_scores,
                (image.ious, image.purities, image.integrities),
                truth.boxes[objects],
                truth.labels[objects],
            )
        )
    return LocalizationRows.concatenate(parts)


def localization_report(
    rows: LocalizationRows, population: str, kept: LocalizationRows | None = None
) -> dict[str, Any]:
    """The whole report as JSON values; the calibration error is computed on `kept` (default: `rows`)."""
    kept = rows if kept is None else kept
    return {
        "population": population,
        "n": len(rows),
        "pearson": {
            "class_score_vs_true_iou": pearson(rows.class_score, rows.true_iou),
            "predicted_iou_vs_true_iou": pearson(rows.iou, rows.true_iou),
            "fused_score_vs_true_iou": pearson(rows.fused, rows.true_iou),
            "predicted_purity_vs_true_purity": pearson(rows.purity, rows.true_purity),
            "predicted_integrity_vs_true_integrity": pearson(rows.integrity, rows.true_integrity),
        },
        "mean_absolute_error": {
            "iou": mean_absolute_error(rows.iou, rows.true_iou),
            "purity": mean_absolute_error(rows.purity, rows.true_purity),
            "integrity": mean_absolute_error(rows.integrity, rows.true_integrity),
        },
        "error_per_iou_decile": error_per_decile(rows.iou, rows.true_iou),
        "calibration": {
            "population": KEPT,
            "n": len(kept),
            "expected_calibration_error": expected_calibration_error(kept.iou, kept.true_iou),
            "bins": reliability_bins(kept.iou, kept.true_iou),
        },
    }


def pearson(x: Array, y: Array) -> float | None:
    """Correlation of two columns [n]; None with fewer than MIN_ROWS rows or where a column is constant."""
    if len(x) < MIN_ROWS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    scale = np.sqrt((x @ x) * (y @ y))
    return float(np.clip((x @ y) / scale, -1.0, 1.0)) if scale > 0 else None


def mean_absolute_error(predicted: Array, true: Array) -> float | None:
    """None with fewer than MIN_ROWS rows."""
    return float(np.abs(predicted - true).mean()) if len(true) >= MIN_ROWS else None


def error_per_decile(predicted: Array, true: Array) -> list[dict[str, Any]]:
    """Per tenth of TRUE IoU: count, mean absolute error, bias (predicted - true; above 0: too hopeful)."""
    error = predicted - true
    table: list[dict[str, Any]] = []
    for low, high, mask in _tenths(true):
        enough = mask.sum() >= MIN_ROWS
        table.append(
            {
                "from": low,
                "to": high,
                "n": int(mask.sum()),
                "mean_absolute_error": float(np.abs(error[mask]).mean()) if enough else None,
                "bias": float(error[mask].mean()) if enough else None,
            }
        )
    return table


def reliability_bins(predicted: Array, true: Array) -> list[dict[str, Any]]:
    """Per tenth of PREDICTED IoU: count, mean prediction, mean truth."""
    table: list[dict[str, Any]] = []
    for low, high, mask in _tenths(predicted):
        some = bool(mask.any())
        table.append(
            {
                "from": low,
                "to": high,
                "n": int(mask.sum()),
                "mean_predicted": float(predicted[mask].mean()) if some else None,
                "mean_true": float(true[mask].mean()) if some else None,
            }
        )
    return table


def expected_calibration_error(predicted: Array, true: Array) -> float | None:
    """Sum over 10 equal-width bins of (share of rows) * |mean predicted - mean true|; None below MIN_ROWS
    rows.
    """
    if len(true) < MIN_ROWS:
        return None
    gaps = [
        mask.sum() * abs(predicted[mask].mean() - true[mask].mean())
        for _, _, mask in _tenths(predicted)
        if mask.any()
    ]
    return float(sum(gaps) / len(true))


def _tenths(values: Array) -> list[tuple[float, float, NDArray[np.bool_]]]:
    """(low, high, which rows) of 10 equal bins over 0..1; a bin holds its lower edge, the last one 1 as
    well.
    """
    bins = np.clip((values * BINS).astype(np.int64), 0, BINS - 1)
    return [(index / BINS, (index + 1) / BINS, bins == index) for index in range(BINS)]
