"""What the model says about one image and its annotations: the only part of an audit that takes long.

n: annotations; d: the model's own boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.api import Detector

__all__ = ["DETECT_OPTIONS", "Examined", "Opinions", "OwnBoxes", "examine"]

FloatArray = NDArray[np.float32]

# Weak boxes too: they are all that supports an annotation of a hard object.
DETECT_OPTIONS: Mapping[str, Any] = {"class_threshold": 0.05, "score_threshold": 0.1, "iou_weight": 0.5}
_DECIMALS = 4


@dataclass(frozen=True, eq=False)
class Opinions:
    """On each annotation. ious, purities, integrities: float32 [n], the last two None where the model has
    them not. own_scores: float32 [n], class score of the annotated class, 0 where it is not judged.
    other_scores, other_labels: [n], the best of the model's other classes; -1 where it knows one class alone.
    """

    ious: FloatArray
    purities: FloatArray | None
    integrities: FloatArray | None
    own_scores: FloatArray
    other_scores: FloatArray
    other_labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OwnBoxes:
    """What the model finds by itself, best score first. boxes: float32 [d, 4] xyxy, original pixels; labels:
    int64 [d]; scores (fused), class_scores, ious: float32 [d].
    """

    boxes: FloatArray
    labels: NDArray[np.int64]
    scores: FloatArray
    class_scores: FloatArray
    ious: FloatArray


@dataclass(frozen=True, eq=False)
class Examined:
    """Both. full: as many own boxes as the model can report, so that what is not among them may still be
    there.
    """

    opinions: Opinions
    own: OwnBoxes
    full: bool

    def to_json(self) -> dict[str, Any]:
        """For the journal."""
        opinions = {name: _listed(value) for name, value in vars(self.opinions).items()}
        return {
            "opinions": opinions,
            "own": {k: _listed(v) for k, v in vars(self.own).items()},
            "full": self.full,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Examined:
        """What `to_json` made. Raises KeyError, TypeError, ValueError for anything else."""
        opinions: dict[str, Any] = {
            name: _array(name, document["opinions"][name]) for name in Opinions.__annotations__
        }
        own: dict[str, Any] = {name: _array(name, document["own"][name]) for name in OwnBoxes.__annotations__}
        own["boxes"] = own["boxes"].reshape(-1, 4)
        return cls(Opinions(**opinions), OwnBoxes(**own), bool(document["full"]))


def examine(
    detector: Detector, pixels: NDArray[np.uint8], boxes: FloatArray, labels: NDArray[np.int64]
) -> Examined:
    """The opinions on `boxes` [n, 4] (xyxy, pixels of the image) annotated as the model's `labels` [n], and
    the model's own boxes.

    Raises OptionError where the model has no localization head, RuntimeFailure.
    """
    found = detector.detect(pixels, **DETECT_OPTIONS)
    assert found.ious is not None  # who can rescore judges its own boxes
    own = OwnBoxes(found.boxes, found.labels, found.scores, found.class_scores, found.ious)
    full = len(found) >= detector.artifact.manifest.max_detections
    return Examined(_opinions(detector, pixels, boxes, labels), own, full)


def _opinions(
    detector: Detector, pixels: NDArray[np.uint8], boxes: FloatArray, labels: NDArray[np.int64]
) -> Opinions:
    most = detector.artifact.manifest.max_rescore_boxes
    parts = [detector.rescore(pixels, boxes[at : at + most]) for at in range(0, len(boxes), most)]
    if not parts:
        nothing = np.zeros(0, np.float32)
        return Opinions(nothing, nothing, nothing, nothing, nothing, np.zeros(0, np.int64))

    def joined(name: str) -> FloatArray | None:
        columns = [getattr(part, name) for part in parts]
        return None if columns[0] is None else np.concatenate(columns)

    ious = joined("ious")
    class_scores = joined("class_scores")
    assert ious is not None and class_scores is not None
    rows = np.arange(len(boxes))
    own_scores = np.where(labels >= 0, class_scores[rows, np.maximum(labels, 0)], 0.0).astype(np.float32)
    others = class_scores.copy()
    others[rows[labels >= 0], labels[labels >= 0]] = -1.0
    other_labels = others.argmax(axis=1).astype(np.int64)
    other_scores = others[rows, other_labels]
    other_labels[other_scores < 0] = -1
    return Opinions(
        ious,
        joined("purities"),
        joined("integrities"),
        own_scores,
        np.maximum(other_scores, 0.0).astype(np.float32),
        other_labels,
    )


def _listed(column: NDArray[Any] | None) -> list[Any] | None:
    if column is None:
        return None
    if column.dtype == np.int64:
        return list(column.tolist())
    return list(np.round(column.astype(np.float64), _DECIMALS).tolist())


def _array(name: str, values: Any) -> NDArray[Any] | None:
    if values is None:
        return None
    return np.asarray(values, np.int64 if name.endswith("labels") else np.float32)
