"""Are two sets of detections the same? Matching with tolerance, and why a detection may lack its twin.

Two correct programs never agree to the last bit, and detection is full of cliffs: a score beside a
threshold, an IoU beside the NMS threshold, the last place of a full list. So detections are matched by
class and box, and one without a match is forgiven only where such a cliff explains it. On an image without
any content every position scores the same: which of the equal boxes are reported is then chance, and a box
may be explained by one of equal score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.overlap import pairwise_iou

Arrays = Mapping[str, NDArray[Any]]

QUALITIES = ("scores", "class_scores", "ious", "purities", "integrities")
_NUMBERS = ("boxes", *QUALITIES, "masks")
_MATCH_IOU = 0.9
_FAR = 1e9  # beyond any tolerance, and still a number that JSON can hold


@dataclass(frozen=True)
class Tolerance:
    """pixels: of a box corner. score: of any probability, a mask's cells among them. iou: how near the NMS
    threshold excuses a pair.
    """

    pixels: float = 1e-2
    score: float = 1e-4
    iou: float = 1e-3


@dataclass(frozen=True)
class Filters:
    """The thresholds one image was run with: what may excuse a detection that only one side reports."""

    class_threshold: float
    score_threshold: float
    nms_threshold: float


@dataclass(frozen=True)
class Comparison:
    """`pixel_differences` and `score_differences`: one value per matched pair, the largest over its numbers.

    explained, unexplained: detections of either side without a match, beside a cliff or not. by_name: the
    same differences apart: "boxes" (the worst of four corners), each probability, "masks" (the worst cell).
    """

    matched: int
    explained: int
    unexplained: int
    pixel_differences: NDArray[np.float64]
    score_differences: NDArray[np.float64]
    by_name: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def outliers(self, tolerance: Tolerance) -> int:
        """Detections that differ: unexplained, or matched but beyond the tolerance."""
        beyond = (self.pixel_differences > tolerance.pixels) | (self.score_differences > tolerance.score)
        return self.unexplained + int(beyond.sum())


def merge(parts: Sequence[Comparison]) -> Comparison:
    """One comparison over several images."""
    names = dict.fromkeys(name for part in parts for name in part.by_name)
    return Comparison(
        sum(part.matched for part in parts),
        sum(part.explained for part in parts),
        sum(part.unexplained for part in parts),
        np.concatenate([part.pixel_differences for part in parts] or [np.zeros(0)]),
        np.concatenate([part.score_differences for part in parts] or [np.zeros(0)]),
        {name: np.concatenate([part.by_name.get(name, np.zeros(0)) for part in parts]) for name in names},
    )


def detections_of(outputs: Arrays, image: int) -> dict[str, NDArray[Any]]:
    """The reported rows of one image of a batch of model.onnx's outputs."""
    count = int(outputs["num_detections"][image])
    return {name: values[image, :count] for name, values in outputs.items() if name != "num_detections"}


def compare_detections(
    expected: Arrays, found: Arrays, filters: Filters, limit: int, tolerance: Tolerance, *, featureless: bool
) -> Comparison:
    """Match one image's detections (as `detections_of` gives them); at most `limit` are reported."""
    pairs = match(expected, found)
    rows, columns = [row for row, _ in pairs], [column for _, column in pairs]
    apart = {
        name: _apart(expected[name][rows], found[name][columns]) for name in _NUMBERS if name in expected
    }
    scores = np.stack([values for name, values in apart.items() if name != "boxes"])
    explained = unexplained = 0
    for own, other, taken in ((expected, found, rows), (found, expected, columns)):
        for row in sorted(set(range(len(own["scores"]))) - set(taken)):
            excused = (
                _beside_a_threshold(own, row, filters, tolerance)
                or _at_the_end_of_a_full_list(own, other, row, limit, tolerance)
                or _beside_the_nms_threshold(own, other, row, filters, tolerance)
                or (featureless and _has_a_twin(own, other, row, tolerance))
            )
            explained, unexplained = explained + excused, unexplained + (not excused)
    worst = scores.max(axis=0, initial=0)
    return Comparison(len(pairs), explained, unexplained, apart["boxes"], worst, apart)


def compare_rescored(expected: Arrays, found: Arrays) -> Comparison:
    """Outputs of rescore.onnx, box by box. Rows past num_boxes count too: they must be zero on both sides."""
    rows = expected["ious"].size
    apart = {
        name: _apart(values.reshape(rows, -1), found[name].reshape(rows, -1))
        for name, values in expected.items()
    }
    return Comparison(
        rows, 0, 0, np.zeros(rows), np.stack(list(apart.values())).max(axis=0, initial=0), apart
    )


def _apart(expected: NDArray[Any], found: NDArray[Any]) -> NDArray[np.float64]:
    """[n]: the largest difference within each row; what is no number counts as far apart."""
    gaps = np.abs(expected.astype(np.float64) - found)
    gaps = np.where(np.isfinite(gaps), gaps, _FAR)
    return np.asarray(gaps.max(axis=tuple(range(1, gaps.ndim)), initial=0))


def match(expected: Arrays, found: Arrays) -> list[tuple[int, int]]:
    """Pairs (row of expected, row of found) of one class, best box first; each row is used once."""
    iou = pairwise_iou(expected["boxes"], found["boxes"])
    same_class = expected["labels"][:, None] == found["labels"][None]
    closeness = np.where(same_class, iou, 0) - np.abs(expected["scores"][:, None] - found["scores"][None])
    free_rows, free_columns = np.ones(len(iou), bool), np.ones(iou.shape[1], bool)
    pairs = []
    near = np.argwhere(same_class & (iou >= _MATCH_IOU))
    for row, column in near[np.argsort(-closeness[near[:, 0], near[:, 1]], kind="stable")].tolist():
        if free_rows[row] and free_columns[column]:
            free_rows[row] = free_columns[column] = False
            pairs.append((row, column))
    return pairs


def _beside_a_threshold(own: Arrays, row: int, filters: Filters, tolerance: Tolerance) -> bool:
    of_class = abs(float(own["class_scores"][row]) - filters.class_threshold)
    of_score = abs(float(own["scores"][row]) - filters.score_threshold)
    return min(of_class, of_score) <= tolerance.score


def _at_the_end_of_a_full_list(
    own: Arrays, other: Arrays, row: int, limit: int, tolerance: Tolerance
) -> bool:
    if len(other["scores"]) < limit:
        return False
    return float(own["scores"][row]) <= float(other["scores"].min()) + tolerance.score


def _beside_the_nms_threshold(
    own: Arrays, other: Arrays, row: int, filters: Filters, tolerance: Tolerance
) -> bool:
    """A rival of its class on the other side may have suppressed it: their IoU is all but the threshold."""
    rivals = other["boxes"][other["labels"] == own["labels"][row]]
    iou = pairwise_iou(own["boxes"][row : row + 1], rivals)
    return bool((np.abs(iou - filters.nms_threshold) <= tolerance.iou).any())


def _has_a_twin(own: Arrays, other: Arrays, row: int, tolerance: Tolerance) -> bool:
    same_class = other["labels"] == own["labels"][row]
    return bool((np.abs(other["scores"][same_class] - own["scores"][row]) <= tolerance.score).any())
