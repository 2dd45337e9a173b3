"""Batched suppression against its definition, and the cases that break such code."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.ops import batched_nms, batched_nms_reference

ABSENT = -float("inf")
THRESHOLDS = [0.01, 0.25, 1 / 3, 0.5, 0.7, 0.75, 1.0]


@st.composite
def groups(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A coarse grid and a handful of scores: ties, copies and IoUs exactly at a threshold are common."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(0, 7))
    group_count, class_count, count = shape
    cell = st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 4), st.integers(0, 4))
    rows = draw(st.lists(cell, min_size=group_count * count, max_size=group_count * count))
    boxes = [[x * 2.0, y * 2.0, (x + w) * 2.0, (y + h) * 2.0] for x, y, w, h in rows]
    size = group_count * class_count * count
    scores = draw(st.lists(st.sampled_from([-7.5, -1.0, 0.0, 2.0, ABSENT]), min_size=size, max_size=size))
    return torch.tensor(boxes).reshape(group_count, count, 4), torch.tensor(scores).reshape(shape)


@settings(max_examples=80, deadline=None)
@given(groups(), st.sampled_from(THRESHOLDS))
def test_it_keeps_what_the_definition_keeps(drawn: tuple[Tensor, Tensor], threshold: float) -> None:
    boxes, scores = drawn
    limit = torch.tensor([threshold])
    assert torch.equal(batched_nms(boxes, scores, limit), batched_nms_reference(boxes, scores, float(limit)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(THRESHOLDS))
def test_it_keeps_what_the_definition_keeps_on_crowded_boxes(seed: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, 40, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 5 + torch.rand(2, 40, 2, generator=generator) * 30], dim=-1)
    scores = torch.randn(2, 2, 40, generator=generator)
    limit = torch.tensor([threshold])
    assert torch.equal(batched_nms(boxes, scores, limit), batched_nms_reference(boxes, scores, float(limit)))


def keep(boxes: list[list[float]], scores: list[float], threshold: float = 0.5) -> list[bool]:
    return batched_nms(  # type: ignore[no-any-return]
        torch.tensor([boxes]).reshape(1, -1, 4), torch.tensor([[scores]]), torch.tensor([threshold])
    )[0, 0].tolist()


BIG, INNER, FAR = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [50.0, 50.0, 60.0, 60.0]


def test_one_box_is_kept() -> None:
    assert keep([BIG], [-3.0]) == [True]


def test_no_boxes_keep_nothing() -> None:
    assert keep([], []) == []


def test_absent_rows_are_never_kept_and_suppress_nothing() -> None:
    assert keep([BIG, INNER], [ABSENT, -3.0]) == [False, True]
    assert keep([BIG, INNER], [ABSENT, ABSENT]) == [False, False]


def test_the_better_of_two_boxes_stays_even_when_scores_are_negative_logits() -> None:
    assert keep([BIG, INNER, FAR], [-9.0, -2.0, -30.0]) == [False, True, True]


def test_of_equal_scores_the_first_row_stays() -> None:
    assert keep([INNER, BIG, INNER], [1.0, 1.0, 1.0]) == [True, False, False]


def test_of_identical_boxes_one_stays() -> None:
    assert keep([BIG] * 5, [0.1, 0.2, 0.5, 0.4, 0.3]) == [False, False, True, False, False]


def test_an_iou_equal_to_the_threshold_survives() -> None:
    half = [0.0, 0.0, 10.0, 5.0]  # IoU with BIG: exactly .5
    assert keep([BIG, half], [2.0, 1.0], 0.5) == [True, True]
    assert keep([BIG, half], [2.0, 1.0], 0.4999) == [True, False]


def test_a_threshold_of_one_suppresses_nothing() -> None:
    assert keep([BIG] * 3, [1.0, 2.0, 3.0], 1.0) == [True, True, True]


def test_a_suppressed_box_suppresses_nobody() -> None:
    chain = [[0.0, 0.0, 10.0, 10.0], [0.0, 4.0, 10.0, 14.0], [0.0, 8.0, 10.0, 18.0]]  # neighbours: IoU .43
    assert keep(chain, [3.0, 2.0, 1.0], 0.4) == [True, False, True]


def test_groups_and_classes_are_suppressed_apart() -> None:
    boxes = torch.tensor([[BIG, INNER], [BIG, INNER]])
    scores = torch.tensor([[[2.0, 1.0], [1.0, 2.0]], [[2.0, 1.0], [ABSENT, 1.0]]])
    assert batched_nms(boxes, scores, torch.tensor([0.5])).tolist() == [
        [[True, False], [False, True]],
        [[True, False], [False, True]],
    ]


@pytest.mark.parametrize("contiguous", [True, False])
def test_the_op_is_well_formed(contiguous: bool) -> None:
    torch.manual_seed(0)
    corner = torch.rand(2, 6, 2) * 20
    boxes, scores = torch.cat([corner, corner + 8], dim=-1), torch.randn(2, 3, 6)
    if not contiguous:  # ranking hands over a transposed view
        scores = torch.randn(2, 6, 3).transpose(1, 2)
    torch.library.opcheck(torch.ops.hindsight.batched_nms, (boxes, scores, torch.tensor([0.5])))
