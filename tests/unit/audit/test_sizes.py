"""What size is usual for a class, and how odd a box is."""

from __future__ import annotations

import numpy as np
import pytest

from hindsight.audit.sizes import usual_sizes


def square(side: float) -> list[float]:
    return [5, 5, 5 + side, 5 + side]


def test_the_usual_size_is_the_sets_own_whatever_a_few_boxes_say() -> None:
    sides = [20.0] * 90 + [18.0, 22.0] * 50 + [200.0] * 5
    boxes = np.array([square(side) for side in sides], np.float32)
    (size,) = usual_sizes([(boxes, np.zeros(len(boxes), np.int64))]).values()
    assert size.median == pytest.approx(np.log(400), abs=1e-4) and size.count == len(boxes)
    assert size.oddness(np.array(square(20))) < 0.01
    assert 0.5 < size.oddness(np.array(square(22))) < 2
    assert size.oddness(np.array(square(2))) == pytest.approx(6 * 195 / 205)
    assert size.oddness(np.array(square(0))) == 0


def test_of_a_rare_class_little_is_known() -> None:
    boxes = np.array([square(20), square(20), square(60)], np.float32)
    sizes = usual_sizes([(boxes[:2], np.array([0, 0])), (boxes[2:], np.array([1]))])
    assert set(sizes) == {0, 1} and sizes[1].oddness(boxes[2]) == 0
    assert 0 < sizes[0].oddness(boxes[2]) <= 1


def test_what_is_not_judged_does_not_count() -> None:
    boxes = np.array([square(20), square(60)], np.float32)
    (size,) = usual_sizes([(boxes, np.array([0, -1]))]).values()
    assert size.count == 1
    assert usual_sizes([]) == {}
