"""Tiles and their merging, whatever the image's size and whatever the tiles have found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hindsight.detections import Detections
from hindsight.nms import nms, suppress
from hindsight.tiling import Tiling, merge, pool

NAMES = ("a", "b")
SIDES = st.integers(1, 400)
SHARES = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1 / 3, 0.5, 0.8])
TILINGS = st.builds(Tiling, st.integers(32, 150), SHARES, st.booleans())


@settings(max_examples=150, deadline=None)
@given(SIDES, SIDES, TILINGS)
def test_tiles_lie_in_the_image_and_cover_each_pixel(height: int, width: int, tiling: Tiling) -> None:
    windows = tiling.windows((height, width))
    assert len(windows) == tiling.count((height, width)) == len(np.unique(windows, axis=0))
    has_whole = tiling.whole and len(windows) > 1
    tiles = windows[:-1] if has_whole else windows
    covered = np.zeros((height, width), np.bool_)
    for x1, y1, x2, y2 in tiles.tolist():
        assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
        assert (y2 - y1, x2 - x1) == (min(tiling.tile, height), min(tiling.tile, width)), "none is shrunk"
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    if has_whole:
        assert windows[-1].tolist() == [0, 0, width, height]


@settings(max_examples=150, deadline=None)
@given(SIDES, TILINGS)
def test_neighbours_overlap_by_at_least_the_share(side: int, tiling: Tiling) -> None:
    tiling = dataclasses.replace(tiling, whole=False)
    starts = tiling.windows((1, side))[:, 0]
    least = tiling.tile * tiling.overlap
    assert (tiling.tile - np.diff(starts) >= least - 1e-6).all()
    if len(starts) > 2:  # one tile fewer would not do
        assert side - tiling.tile > (len(starts) - 2) * (tiling.tile - np.ceil(least - 1e-9))


def overlap(a: NDArray[np.float64], b: NDArray[np.float64], part: bool) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    measure = min(areas) if part else sum(areas) - width * height
    return width * height / measure if measure > 0 else 0.0


def slow(
    boxes: NDArray[np.float64], labels: NDArray[np.int64], order: list[int], threshold: float, cut: list[bool]
) -> list[int]:
    """The definition, one pair at a time."""
    kept: list[int] = []
    for row in order:
        if all(
            labels[row] != labels[other]
            or overlap(boxes[row], boxes[other], cut[row] or cut[other]) <= threshold
            for other in kept
        ):
            kept.append(row)
    return kept


@st.composite
def crowds(draw: st.DrawFn) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], list[bool]]:
    """A coarse grid and a handful of scores: ties, copies and overlaps exactly at a threshold are common;
    some boxes are empty.
    """
    count = draw(st.integers(0, 12))
    cell = st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(0, 5), st.integers(0, 5))
    rows = draw(st.lists(cell, min_size=count, max_size=count))
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in rows], np.float64).reshape(-1, 4)
    scores = draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    cut = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    return boxes, np.array(scores), np.array(labels, np.int64), cut


@settings(max_examples=150, deadline=None)
@given(crowds(), st.sampled_from([0.01, 0.25, 1 / 3, 0.5, 0.75, 1.0]))
def test_suppression_is_its_definition(
    drawn: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], list[bool]], threshold: float
) -> None:
    boxes, scores, labels, cut = drawn
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    none = [False] * len(order)
    assert nms(boxes, scores, labels, threshold).tolist() == slow(boxes, labels, order, threshold, none)
    parts = np.array(cut, np.bool_)
    ranked = np.array(order, np.intp)
    kept = suppress(boxes, labels, ranked, threshold, parts=parts)
    assert kept.tolist() == slow(boxes, labels, order, threshold, cut)
    again = suppress(boxes[kept], labels[kept], np.arange(len(kept)), threshold, parts=parts[kept])
    assert again.tolist() == list(range(len(kept))), "what is kept suppresses nothing of itself"


@st.composite
def passes(draw: st.DrawFn) -> tuple[list[Detections], NDArray[np.int64], tuple[int, int]]:
    """What each tile of an image could have found: few places and scores, so that much coincides."""
    image_hw = draw(st.tuples(st.integers(40, 150), st.integers(40, 150)))
    windows = draw(TILINGS).windows(image_hw)[:12]
    found = []
    for x1, y1, x2, y2 in windows.tolist():
        count = draw(st.integers(0, 4))
        corners = np.array(
            draw(st.lists(st.tuples(*[st.integers(0, 8)] * 4), min_size=count, max_size=count)), np.float32
        ).reshape(-1, 4)
        low, high = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
        boxes = np.concatenate([low, high + 1], axis=1) / 9 * np.array([x2 - x1, y2 - y1] * 2, np.float32)
        scores = draw(st.lists(st.sampled_from([0.2, 0.5, 0.8]), min_size=count, max_size=count))
        column = -np.sort(-np.array(scores, np.float32))
        labels = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), np.int64)
        found.append(
            Detections(boxes, labels, column, column, column, column, column, NAMES, (y2 - y1, x2 - x1))
        )
    return found, windows, image_hw


@settings(max_examples=100, deadline=None)
@given(passes(), st.randoms(use_true_random=False))
def test_the_order_of_the_tiles_makes_no_difference(drawn, random) -> None:  # type: ignore[no-untyped-def]
    found, windows, image_hw = drawn
    merged = merge(found, windows, image_hw, nms_threshold=0.5)
    order = list(range(len(windows)))
    random.shuffle(order)
    again = merge([found[place] for place in order], windows[order], image_hw, nms_threshold=0.5)
    assert again.to_records() == merged.to_records()


@settings(max_examples=100, deadline=None)
@given(passes())
def test_the_answer_is_ranked_and_made_of_what_was_found(drawn) -> None:  # type: ignore[no-untyped-def]
    found, windows, image_hw = drawn
    merged = merge(found, windows, image_hw, nms_threshold=0.5)
    assert (np.diff(merged.scores) <= 0).all() and merged.image_hw == image_hw
    height, width = image_hw
    assert (merged.boxes >= 0).all() and (merged.boxes <= np.array([width, height] * 2) + 1e-3).all()
    pooled = {str(row) for row in pool(found, windows, image_hw).detections.to_records()}
    assert {str(row) for row in merged.to_records()} <= pooled
    for limit in (1, 3):
        best = merge(found, windows, image_hw, nms_threshold=0.5, max_detections=limit)
        assert best.to_records() == merged.to_records()[:limit]


@settings(max_examples=100, deadline=None)
@given(passes())
def test_merging_what_is_merged_changes_nothing(drawn) -> None:  # type: ignore[no-untyped-def]
    """Each tile reports only those of its boxes that were kept: the answer is the same."""
    found, windows, image_hw = drawn
    merged = merge(found, windows, image_hw, nms_threshold=0.5)
    kept = {str(row) for row in merged.to_records()}
    fewer = []
    for each, window in zip(found, windows, strict=True):
        rows = pool([each], window[None], image_hw).detections.to_records()
        fewer.append(each.select([str(row) in kept for row in rows]))
    again = merge(fewer, windows, image_hw, nms_threshold=0.5)
    assert again.to_records() == merged.to_records()


@pytest.mark.parametrize("count", [0, 3])
def test_one_window_answers_what_its_pass_has_found(count: int) -> None:
    boxes = np.array([[0, 0, 5, 5], [0, 0, 5, 5.1], [1, 1, 9, 9]], np.float32)[:count]
    column = np.array([0.9, 0.9, 0.5], np.float32)[:count]
    labels = np.zeros(count, np.int64)
    found = Detections(boxes, labels, column, column, None, None, None, NAMES, (10, 10))
    windows = Tiling(32).windows((10, 10))
    merged = merge([found], windows, (10, 10), nms_threshold=0.5)
    assert merged.to_records() == found.to_records(), "no suppression beyond the model's own"
