"""The comparison of detections: what it matches, what it excuses, and above all what it does not."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from export.parity import Comparison, Filters, Tolerance, compare_detections, merge

FILTERS = Filters(class_threshold=0.05, score_threshold=0.3, nms_threshold=0.5)
TOLERANCE = Tolerance()
Rows = dict[str, NDArray[Any]]


def rows(boxes: list[list[float]], scores: list[float], labels: list[int] | None = None) -> Rows:
    count = len(boxes)
    values = np.array(scores, np.float32)
    return {
        "boxes": np.array(boxes, np.float32).reshape(count, 4),
        "labels": np.array(labels or [0] * count, np.int64),
        "scores": values,
        "class_scores": np.full(count, 0.9, np.float32),
        "ious": values,
    }


def compare(expected: Rows, found: Rows, limit: int = 100, *, featureless: bool = False) -> Comparison:
    return compare_detections(expected, found, FILTERS, limit, TOLERANCE, featureless=featureless)


def test_the_same_detections_in_another_order_are_equal() -> None:
    boxes = [[0.0, 0, 10, 10], [50, 50, 90, 80], [0, 0, 10, 10]]
    expected, found = rows(boxes, [0.9, 0.8, 0.7], [0, 1, 1]), rows(boxes[::-1], [0.7, 0.8, 0.9], [1, 1, 0])
    result = compare(expected, found)
    assert (result.matched, result.explained, result.unexplained) == (3, 0, 0)
    assert result.outliers(TOLERANCE) == 0


@pytest.mark.parametrize(("shift", "score", "outliers"), [(5e-3, 0.9, 0), (2e-2, 0.9, 1), (0, 0.9003, 1)])
def test_a_matched_pair_must_keep_the_tolerance(shift: float, score: float, outliers: int) -> None:
    result = compare(rows([[0, 0, 10, 10]], [0.9]), rows([[shift, 0, 10, 10]], [score]))
    assert result.matched == 1
    assert result.outliers(TOLERANCE) == outliers


@pytest.mark.parametrize("swapped", [False, True])
def test_a_missing_detection_is_an_outlier_on_either_side(swapped: bool) -> None:
    full, less = rows([[0, 0, 10, 10], [40, 40, 60, 60]], [0.9, 0.8]), rows([[0, 0, 10, 10]], [0.9])
    result = compare(less, full) if swapped else compare(full, less)
    assert (result.matched, result.explained, result.unexplained) == (1, 0, 1)


def test_a_wrong_class_is_two_outliers() -> None:
    result = compare(rows([[0, 0, 10, 10]], [0.9], [0]), rows([[0, 0, 10, 10]], [0.9], [1]))
    assert (result.matched, result.unexplained) == (0, 2)


def test_a_score_beside_the_threshold_is_excused() -> None:
    nothing = rows([], [])
    assert compare(rows([[0, 0, 10, 10]], [0.30005]), nothing).explained == 1
    assert compare(rows([[0, 0, 10, 10]], [0.31]), nothing).unexplained == 1


def test_the_last_place_of_a_full_list_is_excused_only_if_the_list_is_full() -> None:
    first = rows([[0, 0, 10, 10], [40, 40, 60, 60]], [0.9, 0.6])
    other = rows([[0, 0, 10, 10], [80, 40, 99, 60]], [0.9, 0.60005])
    assert compare(first, other, limit=2).explained == 2
    assert compare(first, other, limit=3).unexplained == 2
    better = rows([[0, 0, 10, 10], [80, 40, 99, 60]], [0.9, 0.7])
    assert compare(first, better, limit=2).unexplained == 1


def test_a_pair_beside_the_nms_threshold_is_excused() -> None:
    # IoU of the two boxes: 10 / 20 = 0.5
    both = rows([[0, 0, 15, 10], [5, 0, 20, 10]], [0.9, 0.8])
    assert compare(both, rows([[0, 0, 15, 10]], [0.9])).explained == 1
    apart = rows([[0, 0, 15, 10], [6, 0, 21, 10]], [0.9, 0.8])
    assert compare(apart, rows([[0, 0, 15, 10]], [0.9])).unexplained == 1


def test_equal_scores_excuse_another_place_only_without_content() -> None:
    here, there = rows([[0, 0, 10, 10]], [0.9]), rows([[40, 40, 50, 50]], [0.9])
    assert compare(here, there, featureless=True).explained == 2
    assert compare(here, there).unexplained == 2
    assert compare(here, rows([[40, 40, 50, 50]], [0.8]), featureless=True).unexplained == 2


def test_nothing_on_both_sides_compares_nothing() -> None:
    result = merge([compare(rows([], []), rows([], [])), compare(rows([], []), rows([], []))])
    assert (result.matched, result.explained, result.outliers(TOLERANCE)) == (0, 0, 0)
