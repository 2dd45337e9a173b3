"""Letterboxing and the way back, for any image size and any rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindsight.manifest import ResizeRule
from hindsight.preprocess import Letterboxed, boxes_to_input, boxes_to_original, letterbox, scaled_hw

SIDES = st.integers(1, 5000)
SIZES = st.tuples(SIDES, SIDES)
RULES = st.builds(
    lambda short, more, pad: ResizeRule(short, short + more, pad),
    st.integers(1, 800),
    st.integers(0, 800),
    st.sampled_from([1, 32, 64]),
)
SMALL_SIZES = st.tuples(st.integers(1, 300), st.integers(1, 300))
SMALL_RULES = st.builds(
    lambda short, more: ResizeRule(short, short + more), st.integers(1, 128), st.integers(0, 128)
)


@given(SIZES, RULES)
def test_the_scaled_size_keeps_to_the_rule(hw: tuple[int, int], rule: ResizeRule) -> None:
    valid = scaled_hw(hw, rule)
    assert min(valid) >= 1
    assert min(valid) <= max(1, rule.short_side)
    assert max(valid) <= rule.long_side
    assert max(valid) == rule.long_side or min(valid) == rule.short_side
    scale = min(rule.short_side / min(hw), rule.long_side / max(hw))
    assert all(
        abs(side - original * scale) <= 0.5 or side == 1 for side, original in zip(valid, hw, strict=True)
    )


@settings(deadline=None, max_examples=60)
@given(SMALL_SIZES, SMALL_RULES, st.integers(0, 2**32 - 1))
def test_the_padding_is_zero_and_the_image_lies_top_left(
    hw: tuple[int, int], rule: ResizeRule, seed: int
) -> None:
    image = np.random.default_rng(seed).integers(1, 256, (*hw, 3), np.uint8)
    lb = letterbox(image, rule)
    height, width = lb.valid_hw
    assert all(side % rule.pad_multiple == 0 for side in lb.image.shape[:2])
    assert all(
        0 <= padded - valid < rule.pad_multiple
        for padded, valid in zip(lb.image.shape, lb.valid_hw, strict=False)
    )
    assert not lb.image[height:].any() and not lb.image[:, width:].any()
    assert lb.image[:height, :width].min() >= 1  # a mean of values from 1 up is never 0
    assert lb.original_hw == hw
    if lb.valid_hw == hw:
        np.testing.assert_array_equal(lb.image[:height, :width], image)


@given(SIZES, RULES, st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=5))
def test_boxes_return_to_where_they_came_from(
    hw: tuple[int, int], rule: ResizeRule, fractions: list[tuple[float, ...]]
) -> None:
    lb = Letterboxed(np.zeros((0, 0, 3), np.uint8), scaled_hw(hw, rule), hw)
    boxes = np.array(fractions, np.float64).reshape(-1, 4) * [hw[1], hw[0], hw[1], hw[0]]
    there = boxes_to_input(boxes, lb)
    limits = np.array([lb.valid_hw[1], lb.valid_hw[0]] * 2)
    assert there.dtype == np.float32 and (there <= limits * (1 + 1e-6)).all()
    np.testing.assert_allclose(boxes_to_original(there, lb), boxes, rtol=1e-5, atol=1e-3)


@given(SIZES, RULES, st.tuples(*[st.floats(-1e6, 1e6)] * 4))
def test_boxes_in_the_original_never_leave_it(
    hw: tuple[int, int], rule: ResizeRule, box: tuple[float, ...]
) -> None:
    lb = Letterboxed(np.zeros((0, 0, 3), np.uint8), scaled_hw(hw, rule), hw)
    original = boxes_to_original([box], lb)
    assert (original >= 0).all() and (original <= [hw[1], hw[0]] * 2).all()


def test_a_corner_maps_to_the_corner() -> None:
    lb = letterbox(np.zeros((50, 333, 3), np.uint8), ResizeRule(96, 160))
    assert lb.valid_hw == (24, 160)
    assert boxes_to_original([[0, 0, 160, 24]], lb).tolist() == [[0, 0, 333, 50]]


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_what_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        letterbox(image, ResizeRule(32, 32))
