"""Where the texts of annotated boxes go, and that every box can be seen."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hindsight.detections import Detections
from hindsight.draw import _free_place, _overlap, annotate
from hindsight.manifest import ClassInfo

CANVAS = (200, 120)
CLASSES = (ClassInfo("cell", "#ff0000"),)


def place(x1: float, y1: float, x2: float, y2: float, taken: list[tuple[float, ...]]) -> tuple[float, ...]:
    box = np.array([x1, y1, x2, y2], np.float32)
    return _free_place(box, (40, 10), CANVAS, np.array(taken, np.float64).reshape(-1, 4))


def test_a_text_stands_above_its_box_unless_that_is_taken_or_outside() -> None:
    assert place(20, 30, 80, 60, []) == (20, 20, 60, 30)
    assert place(20, 30, 80, 60, [(0, 20, 30, 30)]) == (40, 20, 80, 30)  # further right
    assert place(20, 30, 80, 60, [(0, 20, 200, 30)]) == (20, 60, 60, 70)  # below
    assert place(20, 5, 80, 60, []) == (20, 60, 60, 70)  # no room above
    assert place(0, 0, 200, 120, []) == (0, 0, 40, 10)  # a box as large as the image: inside it


@given(
    st.lists(
        st.tuples(st.floats(-5, 190), st.floats(-5, 110), st.floats(1, 150), st.floats(1, 100)), max_size=12
    )
)
def test_texts_lie_inside_the_image(boxes: list[tuple[float, float, float, float]]) -> None:
    taken: list[tuple[float, ...]] = []
    for x, y, width, height in boxes:
        found = place(x, y, x + width, y + height, taken)
        assert found[0] >= 0 and found[1] >= 0 and found[2] <= CANVAS[0] and found[3] <= CANVAS[1]
        assert (found[2] - found[0], found[3] - found[1]) == (40, 10)
        taken.append(found)


def test_neighbours_texts_do_not_hide_each_other() -> None:
    """Two cells side by side: before, the weaker one's text lay under the stronger one's."""
    first = place(20, 30, 80, 60, [])
    second = place(45, 31, 90, 60, [first])
    assert _overlap(first, np.array([second])) == 0  # type: ignore[arg-type]


def test_boxes_are_drawn_in_their_colour() -> None:
    one = np.ones(1, np.float32)
    box = np.array([[50, 40, 150, 100]], np.float32)
    found = Detections(box, np.zeros(1, np.int64), one, one, None, None, None, ("cell",), CANVAS[::-1])
    drawn = np.asarray(annotate(np.zeros((120, 200, 3), np.uint8), found, CLASSES))
    assert drawn[70, 50].tolist() == drawn[99, 100].tolist() == [255, 0, 0]
    assert drawn[70, 100].tolist() == [0, 0, 0]


def test_masks_tint_their_pixels_and_leave_the_photo_alone() -> None:
    one = np.ones(1, np.float32)
    box, left = np.array([[50, 40, 150, 100]], np.float32), np.zeros((1, 28, 28), np.float32)
    left[:, :, :14] = 1
    found = Detections(box, np.zeros(1, np.int64), one, one, None, None, None, ("cell",), CANVAS[::-1], left)
    photo = np.full((120, 200, 3), 100, np.uint8)
    drawn = np.asarray(annotate(photo, found, CLASSES))
    assert drawn[70, 70].tolist() == [162, 60, 60]
    assert drawn[70, 130].tolist() == [100, 100, 100]
    assert (photo == 100).all()
