"""One image asked about in several ways: mirrored views undone, their boxes put together, boxes nudged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hindsight import load
from hindsight.audit.examine import OwnBoxes, examine, together
from hindsight.audit.views import NUDGED, VIEWS, View, nudged, steadiness
from tests.factories import make_tiny_artifact, tiles_image

RED = [32, 0, 64, 32]
HW = (96, 160)


def own(*rows: tuple[tuple[int, int, int, int], int, float]) -> OwnBoxes:
    scores = np.array([score for _, _, score in rows], np.float32)
    boxes = np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4)
    return OwnBoxes(boxes, np.array([label for _, label, _ in rows], np.int64), scores, scores, scores)


@pytest.mark.parametrize("view", VIEWS)
def test_a_views_boxes_are_where_its_pixels_are(view: View) -> None:
    image = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
    box = np.array([[1, 2, 4, 6]], np.float32)
    ((x1, y1, x2, y2),) = view.boxes(box, (6, 8)).astype(int)
    seen = view.pixels(image)[y1:y2, x1:x2]
    np.testing.assert_array_equal(view.pixels(seen), image[2:6, 1:4])
    np.testing.assert_array_equal(view.boxes(view.boxes(box, (6, 8)), (6, 8)), box)


def test_a_sliver_keeps_its_width_in_the_mirror() -> None:
    sliver = np.array([[1e-5, 0, 2e-5, 1]], np.float32)
    ((x1, _, x2, _),) = View(True, False).boxes(sliver, (20_000, 20_000))
    assert x2 > x1


def test_what_views_agree_on_is_one_object_and_what_one_sees_counts_less() -> None:
    first = own(((0, 0, 10, 10), 0, 0.9), ((50, 50, 60, 60), 1, 0.8))
    second = own(((0, 0, 10, 12), 0, 0.7), ((0, 0, 10, 10), 2, 0.6))
    merged = together([first, second])
    assert merged.labels.tolist() == [0, 1, 2]
    np.testing.assert_allclose(merged.scores, [0.8, 0.4, 0.3], atol=1e-6)
    np.testing.assert_allclose(merged.ious, [0.8, 0.8, 0.6], atol=1e-6)  # a view without the box has no say
    np.testing.assert_allclose(merged.boxes[0], [0, 0, 10, (0.9 * 10 + 0.7 * 12) / 1.6], atol=1e-4)


def test_two_boxes_of_one_view_stay_two() -> None:
    view = own(((0, 0, 10, 10), 0, 0.9), ((0, 0, 10, 11), 0, 0.8))
    assert len(together([view]).labels) == len(together([view, view]).labels) == 2


def test_views_without_a_box_are_put_together() -> None:
    assert together([own(), own()]).boxes.shape == (0, 4)


def test_the_copies_of_a_box_lie_in_the_image_around_it() -> None:
    boxes = np.array([RED, [0, 60, 160, 96]], np.float32)
    copies = nudged(boxes, HW)
    assert copies.shape == (2, NUDGED, 4)
    np.testing.assert_array_equal(copies[:, 0], boxes)
    assert (copies >= 0).all() and (copies <= [160, 96, 160, 96]).all()
    assert (copies[..., 2:] > copies[..., :2]).all()
    assert len(np.unique(copies[0], axis=0)) > NUDGED / 2


def test_a_box_is_steady_where_the_head_likes_it_best() -> None:
    copies = nudged(np.array([RED, RED], np.float32), HW)
    ious = np.full((2, NUDGED), 0.3, np.float32)
    ious[0, 0] = ious[1, 2] = 0.9  # the second would rather have its left edge further in
    at_home, away = steadiness(copies, ious)
    assert away < at_home and at_home > 0.97
    assert steadiness(copies[:0], ious[:0]).shape == (0,)


@pytest.mark.parametrize("views", [1, 2, 4])
def test_a_model_without_whims_says_the_same_in_every_view(tmp_path: Path, views: int) -> None:
    boxes, labels = np.array([RED, [30, 0, 70, 40]], np.float32), np.array([0, 1], np.int64)
    with load(make_tiny_artifact(tmp_path / "tiny").path) as detector:
        once = examine(detector, tiles_image(), boxes, labels, 1)
        seen = examine(detector, tiles_image(), boxes, labels, views)
        nothing = examine(detector, tiles_image(), boxes[:0], labels[:0], views)
    for part in ("opinions", "own"):
        for name, column in vars(getattr(once, part)).items():
            np.testing.assert_allclose(getattr(getattr(seen, part), name), column, atol=1e-5)
    assert seen.opinions.steadiness[0] > seen.opinions.steadiness[1]
    assert len(nothing.opinions.ious) == len(nothing.opinions.steadiness) == 0
    assert len(nothing.own.labels) == len(once.own.labels) == 2
