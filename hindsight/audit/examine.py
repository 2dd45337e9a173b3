"""What the model says about one image and its annotations: the only part of an audit that takes long.

n: annotations; d: the model's own boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.api import Detector
from hindsight.audit.views import NUDGED, VIEWS, clusters, nudged, steadiness

__all__ = ["DETECT_OPTIONS", "Examined", "Opinions", "OwnBoxes", "examine", "together"]

FloatArray = NDArray[np.float32]

# Weak boxes too: they are all that supports an annotation of a hard object.
DETECT_OPTIONS: Mapping[str, Any] = {"class_threshold": 0.05, "score_threshold": 0.1, "iou_weight": 0.5}
_DECIMALS = 4


@dataclass(frozen=True, eq=False)
class Opinions:
    """On each annotation, means over the views. ious, purities, integrities: float32 [n], the last two None
    where the model has them not. steadiness: float32 [n], see views.steadiness. own_scores: float32 [n],
    class score of the annotated class, 0 where it is not judged. other_scores, other_labels: [n], the best of
    the model's other classes; -1 where it knows one class alone.
    """

    ious: FloatArray
    purities: FloatArray | None
    integrities: FloatArray | None
    steadiness: FloatArray
    own_scores: FloatArray
    other_scores: FloatArray
    other_labels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class OwnBoxes:
    """What the model finds by itself, best score first. boxes: float32 [d, 4] xyxy, original pixels; labels:
    int64 [d]; scores (fused), class_scores, ious: float32 [d]. An object that only some views show has the
    lower scores for it.
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
    detector: Detector,
    pixels: NDArray[np.uint8],
    boxes: FloatArray,
    labels: NDArray[np.int64],
    views: int = len(VIEWS),
) -> Examined:
    """The opinions on `boxes` [n, 4] (xyxy, pixels of the image) annotated as the model's `labels` [n], and
    the model's own boxes: means over the first `views` of VIEWS.

    Raises OptionError where the model has no localization head, RuntimeFailure.
    """
    image_hw = (pixels.shape[0], pixels.shape[1])
    found: list[OwnBoxes] = []
    said: list[_Said] = []
    for view in VIEWS[:views]:
        seen = view.pixels(pixels)
        own = detector.detect(seen, **DETECT_OPTIONS)
        assert own.ious is not None  # who can rescore judges its own boxes
        in_image = view.boxes(own.boxes, image_hw).astype(np.float32)
        found.append(OwnBoxes(in_image, own.labels, own.scores, own.class_scores, own.ious))
        said.append(_rescored(detector, seen, view.boxes(boxes, image_hw)))
    copies = nudged(boxes, image_hw)
    ious = _rescored(detector, pixels, copies.reshape(-1, 4)).ious.reshape(-1, NUDGED)
    full = max(len(own.labels) for own in found) >= detector.artifact.manifest.max_detections
    return Examined(_opinions(said, labels, steadiness(copies, ious)), together(found), full)


def together(found: Sequence[OwnBoxes]) -> OwnBoxes:
    """What several views show, each object once: its box the mean, weighted by the scores; its scores the
    mean over all views.
    """
    boxes, labels, scores, class_scores, ious = (
        np.concatenate([getattr(own, name) for own in found]) for name in OwnBoxes.__annotations__
    )
    views = np.repeat(np.arange(len(found)), [len(own.labels) for own in found])
    objects = list(clusters(boxes, labels, scores, views))
    share = 1.0 / len(found)
    merged = OwnBoxes(
        np.array([np.average(boxes[rows], axis=0, weights=scores[rows] + 1e-6) for rows in objects])
        .reshape(-1, 4)
        .astype(np.float32),
        np.array([labels[rows[0]] for rows in objects], np.int64),
        np.array([share * scores[rows].sum() for rows in objects], np.float32),
        np.array([share * class_scores[rows].sum() for rows in objects], np.float32),
        np.array([ious[rows].mean() for rows in objects], np.float32),
    )
    order = np.argsort(-merged.scores, kind="stable")
    return OwnBoxes(**{name: column[order] for name, column in vars(merged).items()})


@dataclass(frozen=True, eq=False)
class _Said:
    """As Rescored, of any number of boxes: [m], class_scores [m, classes]."""

    ious: FloatArray
    purities: FloatArray | None
    integrities: FloatArray | None
    class_scores: FloatArray


def _rescored(detector: Detector, pixels: NDArray[np.uint8], boxes: NDArray[Any]) -> _Said:
    """In as few parts as the model takes."""
    most = detector.artifact.manifest.max_rescore_boxes
    # of no boxes too: then every column is empty, and those that the model lacks are known
    parts = [detector.rescore(pixels, boxes[at : at + most]) for at in range(0, max(1, len(boxes)), most)]

    def joined(name: str) -> FloatArray | None:
        columns = [getattr(part, name) for part in parts]
        return None if columns[0] is None else np.concatenate(columns)

    ious, class_scores = joined("ious"), joined("class_scores")
    assert ious is not None and class_scores is not None
    return _Said(ious, joined("purities"), joined("integrities"), class_scores)


def _opinions(said: Sequence[_Said], labels: NDArray[np.int64], steady: FloatArray) -> Opinions:
    def mean(name: str) -> FloatArray | None:
        columns = [getattr(each, name) for each in said]
        return None if columns[0] is None else np.mean(columns, axis=0, dtype=np.float32)

    ious, class_scores = mean("ious"), mean("class_scores")
    assert ious is not None and class_scores is not None
    rows = np.arange(len(labels))
    own_scores = np.where(labels >= 0, class_scores[rows, np.maximum(labels, 0)], 0.0).astype(np.float32)
    others = class_scores.copy()
    others[rows[labels >= 0], labels[labels >= 0]] = -1.0
    other_labels = others.argmax(axis=1).astype(np.int64)
    other_scores = others[rows, other_labels]
    other_labels[other_scores < 0] = -1
    return Opinions(
        ious,
        mean("purities"),
        mean("integrities"),
        steady,
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
