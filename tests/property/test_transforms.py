"""Geometric augmentation moves boxes exactly with the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hindsight.artifact import ResizeRule
from training.data import Augment, Sample
from training.data.transforms import hflip, photometric, rot90, vflip

MOVES = {
    "hflip": hflip,
    "vflip": vflip,
    "rot90": lambda sample: rot90(sample, 1),
    "rot180": lambda sample: rot90(sample, 2),
    "rot270": lambda sample: rot90(sample, 3),
}


def sample_of(image: NDArray[np.uint8], boxes: NDArray[np.float32]) -> Sample:
    n = len(boxes)
    return Sample(
        image,
        boxes,
        np.arange(n, dtype=np.int64),
        np.zeros(n, np.bool_),
        np.ones(n, np.float32),
        image_id=1,
        path=Path("made.png"),
    )


@st.composite
def samples(draw: st.DrawFn) -> Sample:
    """Black images with one white rectangle, and its box; then a few more boxes anywhere."""
    height, width = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    boxes = []
    for _ in range(draw(st.integers(1, 4))):
        x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        boxes.append([x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height))])
    image = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = boxes[0]
    image[y1:y2, x1:x2] = 255
    return sample_of(image, np.array(boxes, np.float32))


def assert_same(a: Sample, b: Sample) -> None:
    np.testing.assert_array_equal(a.pixels, b.pixels)
    np.testing.assert_array_equal(a.boxes, b.boxes)


@settings(deadline=None)
@given(samples(), st.sampled_from(sorted(MOVES)))
def test_a_painted_rectangle_stays_under_its_box(sample: Sample, move: str) -> None:
    moved = MOVES[move](sample)
    x1, y1, x2, y2 = moved.boxes[0].astype(int)
    expected = np.zeros_like(moved.pixels)
    expected[y1:y2, x1:x2] = 255
    np.testing.assert_array_equal(moved.pixels, expected)


@settings(deadline=None)
@given(samples(), st.sampled_from(sorted(MOVES)))
def test_areas_labels_and_bounds_are_preserved(sample: Sample, move: str) -> None:
    moved = MOVES[move](sample)
    height, width = moved.pixels.shape[:2]
    sides = moved.boxes[:, 2:] - moved.boxes[:, :2]
    before = sample.boxes[:, 2:] - sample.boxes[:, :2]
    assert (sides > 0).all()
    np.testing.assert_array_equal(sides.prod(axis=1), before.prod(axis=1))
    assert (moved.boxes >= 0).all() and (moved.boxes <= [width, height, width, height]).all()
    np.testing.assert_array_equal(moved.labels, sample.labels)


@settings(deadline=None)
@given(samples())
def test_flips_undo_themselves_and_four_quarter_turns_do_nothing(sample: Sample) -> None:
    assert_same(hflip(hflip(sample)), sample)
    assert_same(vflip(vflip(sample)), sample)
    assert_same(rot90(rot90(sample, 1), 3), sample)
    assert_same(rot90(sample, 4), sample)
    assert_same(rot90(sample, 2), hflip(vflip(sample)))


@settings(deadline=None)
@given(samples(), st.integers(0, 2**32 - 1))
def test_an_augmentation_is_decided_by_its_generator(sample: Sample, seed: int) -> None:
    augment = Augment(hflip=0.5, vflip=0.5, rot90=True, photometric=1.0)
    first, again = (augment(sample, np.random.default_rng(seed)) for _ in range(2))
    assert_same(first, again)


@settings(deadline=None)
@given(samples())
def test_all_settings_off_leaves_the_sample_alone(sample: Sample) -> None:
    assert_same(Augment(hflip=0.0)(sample, np.random.default_rng(0)), sample)


def test_every_orientation_is_drawn() -> None:
    image = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    sample = sample_of(image, np.array([[0, 1, 3, 6]], np.float32))
    augment, rng = Augment(hflip=0.5, vflip=0.5, rot90=True), np.random.default_rng(0)
    seen = {augment(sample, rng).pixels.tobytes() for _ in range(200)}
    assert len(seen) == 8  # the symmetries of a square


def test_colours_change_in_the_direction_asked_for() -> None:
    image = np.random.default_rng(0).integers(20, 120, (16, 16, 3), dtype=np.uint8)
    sample = sample_of(image, np.zeros((0, 4), np.float32))
    assert_same(photometric(sample), sample)
    assert photometric(sample, brightness=1.5).pixels.mean() > image.mean() * 1.4
    assert photometric(sample, contrast=0.5).pixels.std() < image.std() * 0.6
    grey = photometric(sample, saturation=0.0).pixels
    assert (grey == grey[..., :1]).all()
    red = sample_of(np.full((4, 4, 3), (200, 0, 0), np.uint8), np.zeros((0, 4), np.float32))
    turned = photometric(red, hue=1 / 3).pixels[0, 0]
    assert turned[1] > 190 and turned[0] < 10  # a third of a turn from red is green


def test_scales_draw_the_short_side() -> None:
    rule, rng = ResizeRule(480, 640), np.random.default_rng(0)
    assert Augment().resize_rule(rule, rng) == rule
    augment = Augment(scales=(320, 400, 800), long_side=600)
    drawn = {augment.resize_rule(rule, rng) for _ in range(50)}
    assert drawn == {ResizeRule(320, 600), ResizeRule(400, 600), ResizeRule(800, 800)}


@pytest.mark.parametrize("wrong", [{"hflip": 1.5}, {"photometric": float("nan")}, {"scales": (0,)}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augment(**wrong)  # type: ignore[arg-type]
