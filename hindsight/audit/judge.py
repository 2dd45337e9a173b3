"""From what the model says to a verdict on each annotation, and a suspicion to rank them by.

n: annotations of an image; d: the model's own boxes in it.

Two witnesses tell how well an annotated box fits its object, each the mean of several views (views.py). The
localization head looks at the pixels in the annotated box and predicts its IoU u; asked about nudged copies
of the box as well, it keeps a share t of it (steadiness). The detector, which has not seen the annotation,
puts a box of its own around the object, with a score s, a predicted IoU w and an IoU v with the annotation;
each annotation is paired with one of those, or with none, and each of those with one annotation. Besides, the
box may be of an odd size for its class: z spreads from the usual one (sizes.py). The chance that the box does
not fit is the logistic function of

    26.7 - 13.4 u - 25.5 t + 0.7 z,                                   with an own box of the detector
                                    - 12.7 + 14.5 w + 8.4 s - 5.9 s v  more

fitted by benchmarks/audit_fit.py to wrong boxes planted in images of two very different data sets that the
models had not learned from. A detector that is sure of an object (s), and of where it ends (w), and puts its
box elsewhere (v) speaks against an annotation; one that is silent says little. What speaks against the
annotated class, and for there being nothing at all, adds to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hindsight.audit.classes import NOT_JUDGED
from hindsight.audit.examine import Examined
from hindsight.audit.sizes import UsualSize
from hindsight.overlap import greedy_pairs, over_smaller, overlap_shares, pairwise_iou

__all__ = ["VERDICTS", "Judged", "Missing", "OwnBox", "Verdict", "judge", "missing"]

Verdict = Literal["fine", "loose", "cut", "shifted", "wrong class", "no object", "duplicate", "not judged"]
VERDICTS: tuple[Verdict, ...] = (
    "loose", "cut", "shifted", "wrong class", "no object", "duplicate", "fine", "not judged",
)  # fmt: skip

WITNESS = 0.3  # score from which a box of the model's own counts
# of the formula above
_CONSTANT, _PREDICTED, _STEADINESS, _ODDNESS = 26.7, -13.4, -25.5, 0.7
_PAIRED, _OWN_PREDICTED, _SCORE, _OVERLAP = -12.7, 14.5, 8.4, -5.9
_NEAR = 0.1  # IoU from which an own box is about the same object
_SUSPICIOUS = 0.25  # suspicion from which an annotation is not fine
_UNCERTAIN = 0.1  # class score below which a class says nothing for or against an annotation
_NOTHING = 0.2  # class score below which there may be no object
_ONE_SIDED = 2.0  # loose or cut: one share is this many times the other
_TWINS = 0.5  # IoU from which two annotations may be of one object
_SAME = 0.95  # IoU from which they are the same box
_TWIN_SUSPICION = 0.7
_SURE = 0.75  # score from which an object without an annotation is reported
_COVERED = 0.3  # IoU with any annotation up to which it is without one
_INSIDE = 0.7  # share of it inside an annotation, or of one inside it, up to which it is without one


@dataclass(frozen=True, slots=True)
class OwnBox:
    """A box of the model's own. box: xyxy, original pixels; label: the model's; score: fused; iou: predicted.
    overlap: IoU with the annotation it is paired with.
    """

    box: tuple[float, float, float, float]
    label: int
    score: float
    iou: float
    overlap: float


@dataclass(frozen=True, slots=True)
class Judged:
    """On one annotation. suspicion: 0 to 1. iou, purity, integrity: predicted for its box. class_score: of
    the annotated class; other_label, other_score: the best of the other classes, label -1 where there is
    none. background: which share of the box is probably no object; outside: which share of the object is not
    in the box. own: the model's own box for the object, if it has one. twin: of a duplicate, the row of the
    other.
    """

    verdict: Verdict
    suspicion: float
    iou: float
    purity: float | None
    integrity: float | None
    class_score: float
    other_label: int
    other_score: float
    background: float
    outside: float
    own: OwnBox | None
    twin: int | None


@dataclass(frozen=True, slots=True)
class Missing:
    """An object that the model is sure of and that has no annotation."""

    suspicion: float
    own: OwnBox


def judge(
    examined: Examined,
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    sizes: Mapping[int, UsualSize] = MappingProxyType({}),
) -> list[Judged]:
    """A verdict on each annotation: `boxes` [n, 4] xyxy, `labels` [n] of the model, NOT_JUDGED for some.
    sizes: by label; a class without one has no odd boxes.
    """
    witnesses = _witnesses(examined, boxes)
    oddness = [
        sizes[label].oddness(box) if label in sizes else 0.0
        for box, label in zip(boxes, labels.tolist(), strict=True)
    ]
    misfits = [_misfit(examined, row, witness, oddness[row]) for row, witness in enumerate(witnesses)]
    twins = _twins(examined, boxes, labels, witnesses)
    return [
        _judged(examined, boxes, row, int(labels[row]), witnesses[row], misfits[row], twins.get(row))
        for row in range(len(boxes))
    ]


def missing(examined: Examined, boxes: NDArray[np.float32], asked: frozenset[int]) -> list[Missing]:
    """The objects of the classes `asked` (the model's labels) that have no annotation near: not even one of a
    class that is not judged, or a crowd.
    """
    own = examined.own
    overlap = pairwise_iou(own.boxes, boxes)
    inside = over_smaller(own.boxes, boxes)
    free = (overlap <= _COVERED).all(axis=1) & (inside <= _INSIDE).all(axis=1)
    paired = {pair.index for pair in _witnesses(examined, boxes) if pair is not None}
    return [
        Missing(float(own.scores[index]), _own_box(examined, index, 0.0))
        for index in np.flatnonzero(free & (own.scores >= _SURE)).tolist()
        if index not in paired and int(own.labels[index]) in asked
    ]


@dataclass(frozen=True, slots=True)
class _Witness:
    """The own box that an annotation is paired with, and their IoU."""

    index: int
    overlap: float


def _witnesses(examined: Examined, boxes: NDArray[np.float32]) -> list[_Witness | None]:
    overlap = pairwise_iou(boxes, examined.own.boxes)
    worth = np.where(examined.own.scores >= WITNESS, overlap, 0.0)
    found: list[_Witness | None] = [None] * len(boxes)
    for row, index in greedy_pairs(worth, _NEAR):
        found[row] = _Witness(index, float(overlap[row, index]))
    return found


def _misfit(examined: Examined, row: int, witness: _Witness | None, oddness: float) -> float:
    """The chance that the box does not fit its object."""
    opinions, own = examined.opinions, examined.own
    evidence = _CONSTANT + _PREDICTED * float(opinions.ious[row]) + _ODDNESS * oddness
    evidence += _STEADINESS * float(opinions.steadiness[row])
    if witness is not None:
        score = float(own.scores[witness.index])
        evidence += _PAIRED + _OWN_PREDICTED * float(own.ious[witness.index])
        evidence += _SCORE * score + _OVERLAP * score * witness.overlap
    return 1.0 / (1.0 + math.exp(-evidence))


def _own_box(examined: Examined, index: int, overlap: float) -> OwnBox:
    own = examined.own
    x1, y1, x2, y2 = (float(value) for value in own.boxes[index])
    return OwnBox(
        (x1, y1, x2, y2), int(own.labels[index]), float(own.scores[index]), float(own.ious[index]), overlap
    )


def _twins(
    examined: Examined,
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    witnesses: list[_Witness | None],
) -> dict[int, int]:
    """Row -> row of the annotation that has the same object already.

    Both are of one class and overlap; the model sees one object there, which is the other's; or they are the
    same box but for rounding, whatever their classes, and the other is the better.
    """
    found: dict[int, int] = {}
    between = pairwise_iou(boxes, boxes)

    def worth(row: int) -> tuple[bool, float, int]:
        return witnesses[row] is not None, float(examined.opinions.ious[row]), -row

    with_own = pairwise_iou(boxes, examined.own.boxes)
    for row in range(len(boxes)):
        if labels[row] == NOT_JUDGED:
            continue
        for other in np.argsort(-between[row], kind="stable").tolist():
            if between[row, other] < _TWINS:
                break
            if other == row or labels[other] == NOT_JUDGED or found.get(other) == row:
                continue
            witness = witnesses[other]
            one_object = (
                labels[other] == labels[row]
                and witnesses[row] is None
                and witness is not None
                and with_own[row, witness.index] >= _TWINS
            )
            same_box = between[row, other] >= _SAME and worth(other) > worth(row)
            if one_object or same_box:
                found[row] = other
                break
    return found


def _judged(
    examined: Examined,
    boxes: NDArray[np.float32],
    row: int,
    label: int,
    witness: _Witness | None,
    misfit: float,
    twin: int | None,
) -> Judged:
    opinions = examined.opinions
    own = None if witness is None else _own_box(examined, witness.index, witness.overlap)
    own_score, other_score = float(opinions.own_scores[row]), float(opinions.other_scores[row])
    background, outside = _shares(examined, boxes, row, witness)
    other_class = max(0.0, 2 * other_score / (own_score + other_score + _UNCERTAIN) - 1)
    strongest = max(own_score, other_score)
    absent = 0.0
    if own is None and not examined.full:  # what the head says counts too: it knows parts of objects better
        absent = max(0.0, 1 - strongest / _NOTHING) * (1.0 - float(opinions.ious[row])) ** 2
    suspicion = 1.0 - (1.0 - misfit) * (1.0 - other_class) * (1.0 - absent)
    if twin is not None:
        suspicion = max(suspicion, _TWIN_SUSPICION)
    verdict: Verdict
    if label == NOT_JUDGED:
        verdict, suspicion = "not judged", 0.0
    elif twin is not None:
        verdict = "duplicate"
    elif suspicion < _SUSPICIOUS:
        verdict = "fine"
    elif own is None and strongest < _NOTHING and not examined.full:
        verdict = "no object"
    elif other_class >= misfit:
        verdict = "wrong class"
    elif background > _ONE_SIDED * outside:
        verdict = "loose"
    elif outside > _ONE_SIDED * background:
        verdict = "cut"
    else:
        verdict = "shifted"
    return Judged(
        verdict,
        suspicion,
        float(opinions.ious[row]),
        None if opinions.purities is None else float(opinions.purities[row]),
        None if opinions.integrities is None else float(opinions.integrities[row]),
        own_score,
        int(opinions.other_labels[row]),
        other_score,
        background,
        outside,
        own,
        twin,
    )


def _shares(
    examined: Examined, boxes: NDArray[np.float32], row: int, witness: _Witness | None
) -> tuple[float, float]:
    """(the share of the box that is no object, the share of the object outside the box), as far as the
    witnesses tell: the mean of what they say.
    """
    said: list[tuple[float, float]] = []
    opinions = examined.opinions
    if opinions.purities is not None and opinions.integrities is not None:
        said.append((1.0 - float(opinions.purities[row]), 1.0 - float(opinions.integrities[row])))
    if witness is not None:
        box, own = boxes[row : row + 1], examined.own.boxes[witness.index : witness.index + 1]
        said.append(
            (1.0 - float(overlap_shares(box, own)[0, 0]), 1.0 - float(overlap_shares(own, box)[0, 0]))
        )
    if not said:
        return 0.0, 0.0
    background, outside = (sum(column) / len(said) for column in zip(*said, strict=True))
    return background, outside
