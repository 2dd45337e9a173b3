"""Soft suppression against its definition, its promises, and the cases that break such code."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.ops import soft_nms, soft_nms_reference

ABSENT = -float("inf")
METHODS = ["linear", "gaussian"]
THRESHOLDS = [0.0, 0.25, 1 / 3, 0.5, 0.75, 1.0]


@st.composite
def groups(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """A coarse grid and a handful of scores: ties, copies, empty boxes and IoUs at a threshold are common."""
    shape = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(0, 7))
    group_count, class_count, count = shape
    cell = st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 4), st.integers(0, 4))
    rows = draw(st.lists(cell, min_size=group_count * count, max_size=group_count * count))
    boxes = [[x * 2.0, y * 2.0, (x + w) * 2.0, (y + h) * 2.0] for x, y, w, h in rows]
    size = group_count * class_count * count
    score = st.sampled_from([0.0, 0.0005, 0.25, 0.6, 0.9, 1.0, ABSENT])
    scores = draw(st.lists(score, min_size=size, max_size=size))
    return torch.tensor(boxes).reshape(group_count, count, 4), torch.tensor(scores).reshape(shape)


def crowd(seed: int, count: int = 30) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(2, count, 2, generator=generator) * 30
    boxes = torch.cat([corner, corner + 5 + torch.rand(2, count, 2, generator=generator) * 30], dim=-1)
    return boxes, torch.rand(2, 2, count, generator=generator)


def decayed(
    boxes: Tensor,
    scores: Tensor,
    threshold: float = 0.5,
    method: str = "linear",
    *,
    sigma: float = 0.5,
    min_score: float = 0.001,
    steps: int = 100,
) -> Tensor:
    found: Tensor = soft_nms(boxes, scores, torch.tensor([threshold]), method, sigma, min_score, steps)
    return found


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=60, deadline=None)
@given(
    drawn=groups(),
    threshold=st.sampled_from(THRESHOLDS),
    sigma=st.sampled_from([0.1, 0.5]),
    min_score=st.sampled_from([0.0, 0.001, 0.3]),
    steps=st.integers(0, 8),
)
def test_it_gives_what_the_definition_gives(
    method: str, drawn: tuple[Tensor, Tensor], threshold: float, sigma: float, min_score: float, steps: int
) -> None:
    found = decayed(*drawn, threshold, method, sigma=sigma, min_score=min_score, steps=steps)
    limit = float(torch.tensor(threshold))
    expected = soft_nms_reference(*drawn, limit, method, sigma, min_score, steps)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), threshold=st.sampled_from(THRESHOLDS))
def test_it_gives_what_the_definition_gives_on_crowded_boxes(
    method: str, seed: int, threshold: float
) -> None:
    boxes, scores = crowd(seed)
    expected = soft_nms_reference(boxes, scores, float(torch.tensor(threshold)), method, 0.5, 0.001, 12)
    found = decayed(boxes, scores, threshold, method, steps=12)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(groups())
def test_linear_with_a_threshold_of_one_changes_nothing(drawn: tuple[Tensor, Tensor]) -> None:
    boxes, scores = drawn
    assert torch.equal(decayed(boxes, scores, 1.0, min_score=0.0), scores)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 10))
def test_a_few_steps_give_the_best_of_many(method: str, seed: int, steps: int) -> None:
    """So that nobody who wants the best K needs more than K steps."""
    boxes, scores = crowd(seed)
    few = decayed(boxes, scores, 0.3, method, steps=steps)
    many = decayed(boxes, scores, 0.3, method)
    assert torch.equal(few.topk(steps).values, many.topk(steps).values)
    assert (few > ABSENT).sum(dim=-1).max() <= steps


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_no_score_rises_and_the_best_stays(method: str, seed: int) -> None:
    boxes, scores = crowd(seed)
    found = decayed(boxes, scores, 0.3, method)
    assert (found <= scores).all()
    assert torch.equal(found.max(dim=-1).values, scores.max(dim=-1).values)


BIG, INNER, FAR = [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 8.0], [50.0, 50.0, 60.0, 60.0]  # IoU .8


def of(
    boxes: list[list[float]], scores: list[float], threshold: float = 0.5, **options: object
) -> list[float]:
    found = decayed(
        torch.tensor([boxes]).reshape(1, -1, 4),
        torch.tensor([[scores]]),
        threshold,
        **options,  # type: ignore[arg-type]
    )
    return found[0, 0].tolist()  # type: ignore[no-any-return]


def test_an_overlapping_box_loses_by_one_minus_the_overlap() -> None:
    assert of([BIG, INNER, FAR], [0.9, 0.8, 0.7]) == pytest.approx([0.9, 0.8 * 0.2, 0.7])


def test_gaussian_decay_needs_no_threshold() -> None:
    found = of([BIG, INNER, FAR], [0.9, 0.8, 0.7], 1.0, method="gaussian", sigma=0.3)
    assert found == pytest.approx([0.9, 0.8 * math.exp(-0.64 / 0.3), 0.7])


def test_every_picked_box_decays_the_rest_again() -> None:
    half = [0.0, 0.0, 10.0, 5.0]  # IoU .5 with BIG, .625 with INNER
    found = of([BIG, INNER, half], [1.0, 0.9, 0.8], 0.4)
    assert found == pytest.approx([1.0, 0.9 * 0.2 * 0.375, 0.8 * 0.5])  # `half` overtakes INNER


def test_an_iou_equal_to_the_threshold_does_not_decay() -> None:
    half = [0.0, 0.0, 10.0, 5.0]
    assert of([BIG, half], [0.9, 0.8], 0.5) == pytest.approx([0.9, 0.8])
    assert of([BIG, half], [0.9, 0.8], 0.4999) == pytest.approx([0.9, 0.4])


def test_what_falls_below_the_least_score_is_dropped() -> None:
    assert of([BIG, INNER, FAR], [0.9, 0.8, 0.1], min_score=0.2) == [pytest.approx(0.9), ABSENT, ABSENT]
    assert of([BIG, BIG], [0.9, 0.8]) == [pytest.approx(0.9), ABSENT]


def test_of_equal_scores_the_first_row_is_picked_first() -> None:
    assert of([INNER, BIG], [0.5, 0.5]) == pytest.approx([0.5, 0.1])


def test_absent_rows_decay_nobody_and_stay_absent() -> None:
    assert of([BIG, INNER], [ABSENT, 0.5]) == [ABSENT, 0.5]
    assert of([BIG, INNER], [ABSENT, ABSENT]) == [ABSENT, ABSENT]


def test_no_boxes_give_no_scores() -> None:
    assert of([], []) == []


def test_boxes_without_area_overlap_nobody() -> None:
    point = [3.0, 3.0, 3.0, 3.0]
    assert of([BIG, point, point], [0.9, 0.5, 0.5]) == pytest.approx([0.9, 0.5, 0.5])


def test_groups_and_classes_decay_apart() -> None:
    boxes = torch.tensor([[BIG, INNER], [BIG, FAR]])
    scores = torch.tensor([[[0.5, 0.25], [0.25, 0.5]], [[0.5, 0.25], [ABSENT, 0.25]]])
    torch.testing.assert_close(
        decayed(boxes, scores),
        torch.tensor([[[0.5, 0.05], [0.05, 0.5]], [[0.5, 0.25], [ABSENT, 0.25]]]),
    )


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="linear or gaussian, got 'cubic'"):
        of([BIG], [0.5], method="cubic")


@pytest.mark.parametrize("contiguous", [True, False])
def test_the_op_is_well_formed(contiguous: bool) -> None:
    boxes, scores = crowd(0, 6)
    if not contiguous:  # ranking hands over a transposed view
        scores = scores.transpose(1, 2).contiguous().transpose(1, 2)
    torch.library.opcheck(
        torch.ops.hindsight.soft_nms, (boxes, scores, torch.tensor([0.5]), "linear", 0.5, 0.001, 4)
    )
