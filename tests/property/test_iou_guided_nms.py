"""IoU-guided suppression against its definition, its promises, and the cases that break such code."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.ops import batched_nms, iou_guided_nms, iou_guided_nms_reference

ABSENT = -float("inf")
THRESHOLDS = [0.01, 0.25, 1 / 3, 0.5, 0.7, 0.75, 1.0]
Drawn = tuple[Tensor, Tensor, Tensor]


@st.composite
def groups(draw: st.DrawFn) -> Drawn:
    """A coarse grid, few scores, few IoUs: ties, copies, empty boxes and IoUs at a threshold are common."""
    shape = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(0, 7))
    group_count, class_count, count = shape
    cell = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 4), st.integers(0, 4))
    rows = draw(st.lists(cell, min_size=group_count * count, max_size=group_count * count))
    boxes = [[x * 2.0, y * 2.0, (x + w) * 2.0, (y + h) * 2.0] for x, y, w, h in rows]
    size = group_count * class_count * count
    scores = draw(st.lists(st.sampled_from([0.0, 0.3, 0.6, 0.9, ABSENT]), min_size=size, max_size=size))
    count_all = group_count * count
    ious = draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=count_all, max_size=count_all))
    return (
        torch.tensor(boxes).reshape(group_count, count, 4),
        torch.tensor(scores).reshape(shape),
        torch.tensor(ious).reshape(group_count, count),
    )


def same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    return torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@settings(max_examples=100, deadline=None)
@given(groups(), st.sampled_from(THRESHOLDS))
def test_it_gives_what_the_definition_gives(drawn: Drawn, threshold: float) -> None:
    limit = torch.tensor([threshold])
    assert same(iou_guided_nms(*drawn, limit), iou_guided_nms_reference(*drawn, float(limit)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(THRESHOLDS))
def test_it_gives_what_the_definition_gives_on_crowded_boxes(seed: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, 40, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 5 + torch.rand(2, 40, 2, generator=generator) * 30], dim=-1)
    scores, ious = torch.rand(2, 2, 40, generator=generator), torch.rand(2, 40, generator=generator)
    scores[scores < 0.2] = ABSENT
    limit = torch.tensor([threshold])
    found = iou_guided_nms(boxes, scores, ious, limit)
    assert same(found, iou_guided_nms_reference(boxes, scores, ious, float(limit)))


@settings(max_examples=40, deadline=None)
@given(groups(), st.sampled_from(THRESHOLDS))
def test_the_kept_boxes_are_those_of_hard_suppression_by_predicted_iou(
    drawn: Drawn, threshold: float
) -> None:
    boxes, scores, ious = drawn
    limit = torch.tensor([threshold])
    by_iou = torch.where(scores > ABSENT, ious[:, None].expand_as(scores), ABSENT)
    keep, _ = iou_guided_nms(boxes, scores, ious, limit)
    assert torch.equal(keep, batched_nms(boxes, by_iou, limit))


@settings(max_examples=40, deadline=None)
@given(groups(), st.sampled_from(THRESHOLDS))
def test_no_kept_box_loses_score_and_the_best_score_is_never_lost(drawn: Drawn, threshold: float) -> None:
    boxes, scores, ious = drawn
    keep, taken = iou_guided_nms(boxes, scores, ious, torch.tensor([threshold]))
    assert (taken[keep] >= scores[keep]).all() and (taken[~keep] == ABSENT).all()
    if scores.shape[2]:
        assert torch.equal(taken.max(dim=-1).values, scores.max(dim=-1).values)


BIG, INNER, FAR = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [50.0, 50.0, 60.0, 60.0]  # IoU .8


def of(
    boxes: list[list[float]], scores: list[float], ious: list[float], threshold: float = 0.5
) -> list[float]:
    keep, taken = iou_guided_nms(
        torch.tensor([boxes]).reshape(1, -1, 4),
        torch.tensor([[scores]]),
        torch.tensor([ious]),
        torch.tensor([threshold]),
    )
    assert torch.equal(keep, taken > ABSENT)
    return taken[0, 0].tolist()  # type: ignore[no-any-return]


def test_the_better_located_box_takes_the_better_class_score() -> None:
    assert of([BIG, INNER, FAR], [0.75, 0.5, 0.25], [0.6, 0.9, 0.1]) == [ABSENT, 0.75, 0.25]


def test_its_own_class_score_stays_if_it_is_the_best() -> None:
    assert of([BIG, INNER], [0.5, 0.75], [0.6, 0.9]) == [ABSENT, 0.75]


def test_a_score_is_given_once_to_the_best_located_keeper() -> None:
    chain = [[0.0, 0.0, 10.0, 10.0], [0.0, 4.0, 10.0, 14.0], [0.0, 8.0, 10.0, 18.0]]  # neighbours: IoU .43
    assert of(chain, [0.25, 1.0, 0.5], [0.9, 0.1, 0.8], 0.4) == [1.0, ABSENT, 0.5]
    assert of(chain, [0.25, 1.0, 0.5], [0.7, 0.1, 0.8], 0.4) == [0.25, ABSENT, 1.0]


def test_of_equal_predicted_ious_the_first_row_stays() -> None:
    assert of([INNER, BIG], [0.5, 0.75], [0.7, 0.7]) == [0.75, ABSENT]


def test_an_iou_equal_to_the_threshold_survives_and_gives_nothing() -> None:
    half = [0.0, 0.0, 10.0, 5.0]
    assert of([BIG, half], [0.25, 0.75], [0.9, 0.1], 0.5) == [0.25, 0.75]


def test_a_threshold_of_one_changes_nothing() -> None:
    assert of([BIG] * 3, [0.25, 0.75, 0.5], [0.1, 0.2, 0.3], 1.0) == [0.25, 0.75, 0.5]


def test_absent_rows_are_never_kept_and_suppress_nobody() -> None:
    assert of([BIG, INNER], [ABSENT, 0.5], [0.9, 0.1]) == [ABSENT, 0.5]
    assert of([BIG, INNER], [ABSENT, ABSENT], [0.9, 0.1]) == [ABSENT, ABSENT]


def test_no_boxes_give_no_scores() -> None:
    assert of([], [], []) == []


def test_boxes_without_area_keep_their_own_score() -> None:
    point = [3.0, 3.0, 3.0, 3.0]
    assert of([point, BIG, point], [0.25, 0.5, 0.75], [0.9, 0.5, 0.1]) == [0.25, 0.5, 0.75]


def test_each_class_has_its_own_clusters() -> None:
    boxes, ious = torch.tensor([[BIG, INNER]]), torch.tensor([[0.9, 0.1]])
    scores = torch.tensor([[[0.25, 0.5], [ABSENT, 0.75]]])
    _, taken = iou_guided_nms(boxes, scores, ious, torch.tensor([0.5]))
    assert taken.tolist() == [[[0.5, ABSENT], [ABSENT, 0.75]]]


@pytest.mark.parametrize("contiguous", [True, False])
def test_the_op_is_well_formed(contiguous: bool) -> None:
    torch.manual_seed(0)
    corner = torch.rand(2, 6, 2) * 20
    boxes, scores, ious = torch.cat([corner, corner + 8], dim=-1), torch.rand(2, 3, 6), torch.rand(2, 6)
    if not contiguous:  # ranking hands over a transposed view
        scores = torch.rand(2, 6, 3).transpose(1, 2)
    torch.library.opcheck(torch.ops.hindsight.iou_guided_nms, (boxes, scores, ious, torch.tensor([0.5])))
