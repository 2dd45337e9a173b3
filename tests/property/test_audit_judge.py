"""Whatever a model says, every annotation gets a verdict; better numbers never make one more suspicious."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hindsight.audit.examine import Examined, Opinions, OwnBoxes
from hindsight.audit.judge import VERDICTS, judge, missing
from hindsight.overlap import greedy_pairs, overlap_shares, overlap_with, pairwise_iou
from hindsight.overlap import pairwise_iou as slow_iou

shares = st.floats(0, 1, width=32)
corners = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 60)] * 2)
box_lists = st.lists(corners.map(lambda c: (c[0], c[1], c[0] + c[2], c[1] + c[3])), max_size=6)


def array(rows: list[tuple[int, ...]]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(rows, np.float32).reshape(-1, 4)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Examined, np.ndarray[..., ...], np.ndarray[..., ...]]:
    boxes, own = array(draw(box_lists)), array(draw(box_lists))
    n, d = len(boxes), len(own)

    def column(length: int) -> np.ndarray[..., ...]:
        return np.array(draw(st.lists(shares, min_size=length, max_size=length)), np.float32)

    labels = np.array(draw(st.lists(st.integers(-1, 2), min_size=n, max_size=n)), np.int64)
    own_labels = np.array(draw(st.lists(st.integers(0, 2), min_size=d, max_size=d)), np.int64)
    with_shares = draw(st.booleans())
    opinions = Opinions(
        column(n),
        column(n) if with_shares else None,
        column(n) if with_shares else None,
        column(n),
        column(n),
        column(n),
        (labels + 1) % 3,
    )
    seen = OwnBoxes(own, own_labels, column(d), column(d), column(d))
    return Examined(opinions, seen, draw(st.booleans())), boxes, labels


@given(scenes())
def test_every_annotation_is_judged(
    scene: tuple[Examined, np.ndarray[..., ...], np.ndarray[..., ...]],
) -> None:
    examined, boxes, labels = scene
    said = judge(examined, boxes, labels)
    assert len(said) == len(boxes)
    for row, each in enumerate(said):
        assert each.verdict in VERDICTS
        assert 0 <= each.suspicion <= 1
        assert (each.verdict == "not judged") == (labels[row] == -1)
        assert (each.twin is None) == (each.verdict != "duplicate")
        if each.twin is not None:
            assert each.twin != row and labels[each.twin] != -1
            assert said[each.twin].twin != row, "of two twins one is kept"
    paired = [each.own.box for each in said if each.own is not None]
    assert len(paired) == len(set(paired)) or len(examined.own.boxes) > len(
        np.unique(examined.own.boxes, axis=0)
    )
    for absent in missing(examined, boxes, frozenset({0, 1, 2})):
        assert (pairwise_iou(np.array([absent.own.box]), boxes) <= 0.3 + 1e-6).all()


@given(scenes(), st.data())
def test_a_better_predicted_iou_is_never_more_suspicious(
    scene: tuple[Examined, np.ndarray[..., ...], np.ndarray[..., ...]], data: st.DataObject
) -> None:
    examined, boxes, labels = scene
    if not len(boxes):
        return
    row = data.draw(st.integers(0, len(boxes) - 1))
    before = judge(examined, boxes, labels)[row]
    better = examined.opinions.ious.copy()
    better[row] = data.draw(st.floats(float(better[row]), 1, width=32))
    opinions = Opinions(**{**vars(examined.opinions), "ious": better})
    after = judge(Examined(opinions, examined.own, examined.full), boxes, labels)[row]
    assert after.suspicion <= before.suspicion + 1e-6


@given(box_lists, box_lists)
def test_overlaps_are_those_of_the_evaluation(
    first: list[tuple[int, ...]], second: list[tuple[int, ...]]
) -> None:
    a, b = array(first), array(second)
    np.testing.assert_allclose(pairwise_iou(a, b), slow_iou(a, b), atol=1e-12)
    for row, box in enumerate(a):
        repeated = np.repeat(box[None], len(b), axis=0)
        np.testing.assert_allclose(overlap_shares(a, b)[row], overlap_with(repeated, b).purity, atol=1e-12)


@given(st.integers(0, 5), st.integers(0, 5), st.data())
def test_greedy_pairs_take_each_once_and_leave_nothing_worth_pairing(
    rows: int, columns: int, data: st.DataObject
) -> None:
    values = data.draw(st.lists(shares, min_size=rows * columns, max_size=rows * columns))
    worth = np.array(values, np.float64).reshape(rows, columns)
    pairs = greedy_pairs(worth, 0.1)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(worth[pair] >= 0.1 for pair in pairs)
    assert [worth[pair] for pair in pairs] == sorted((worth[pair] for pair in pairs), reverse=True)
    free = set(range(rows)) - {row for row, _ in pairs}, set(range(columns)) - {column for _, column in pairs}
    assert all(worth[row, column] < 0.1 for row in free[0] for column in free[1])
