"""Box arithmetic against the definitions, one pair at a time, in exact rationals."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import boxes as box_ops

Box = tuple[float, float, float, float]
few = settings(max_examples=60, deadline=None)


def box(min_side: int = 0) -> st.SearchStrategy[Box]:
    """Corners on a grid of 1/8 pixel: exact in float32, and touching or equal boxes are common."""
    corner, side = st.integers(0, 400), st.integers(min_side, 400)
    return st.tuples(corner, corner, side, side).map(
        lambda v: (v[0] / 8, v[1] / 8, (v[0] + v[2]) / 8, (v[1] + v[3]) / 8)
    )


def boxes(min_side: int = 0) -> st.SearchStrategy[list[Box]]:
    return st.lists(box(min_side), min_size=1, max_size=6)


def as_tensor(rows: list[Box]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def exact_area(b: Box) -> Fraction:
    return (Fraction(b[2]) - Fraction(b[0])) * (Fraction(b[3]) - Fraction(b[1]))


def exact_overlap(a: Box, b: Box) -> Fraction:
    width = min(Fraction(a[2]), Fraction(b[2])) - max(Fraction(a[0]), Fraction(b[0]))
    height = min(Fraction(a[3]), Fraction(b[3])) - max(Fraction(a[1]), Fraction(b[1]))
    return max(width, Fraction(0)) * max(height, Fraction(0))


def ratio(part: Fraction, whole: Fraction) -> float:
    return float(part / whole) if whole else 0.0


def exact_iou(a: Box, b: Box) -> float:
    overlap = exact_overlap(a, b)
    return ratio(overlap, exact_area(a) + exact_area(b) - overlap)


@few
@given(boxes(), boxes())
def test_pairwise_iou_is_overlap_over_union(a: list[Box], b: list[Box]) -> None:
    found = box_ops.pairwise_iou(as_tensor(a), as_tensor(b))
    expected = torch.tensor([[exact_iou(x, y) for y in b] for x in a])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@few
@given(st.lists(st.tuples(box(), box()), min_size=1, max_size=6))
def test_quality_is_the_papers_three_ratios(pairs: list[tuple[Box, Box]]) -> None:
    found = box_ops.paired_quality(as_tensor([a for a, _ in pairs]), as_tensor([b for _, b in pairs]))
    for row, (a, b) in enumerate(pairs):
        overlap = exact_overlap(a, b)
        expected = (exact_iou(a, b), ratio(overlap, exact_area(a)), ratio(overlap, exact_area(b)))
        assert [float(part[row]) for part in found] == pytest.approx(expected, abs=1e-6, rel=1e-5)


@few
@given(box(min_side=1), box(min_side=1))
def test_purity_and_integrity_determine_the_iou(a: Box, b: Box) -> None:
    iou, purity, integrity = (float(part) for part in box_ops.paired_quality(as_tensor([a]), as_tensor([b])))
    if purity == 0:
        assert iou == integrity == 0
        return
    assert 1 / (1 / purity + 1 / integrity - 1) == pytest.approx(iou, rel=1e-4)
    assert iou <= min(purity, integrity) * (1 + 1e-6)


@few
@given(box(min_side=1))
def test_a_box_matches_itself_perfectly(b: Box) -> None:
    assert [float(part) for part in box_ops.paired_quality(as_tensor([b]), as_tensor([b]))] == [1, 1, 1]


STDS = st.sampled_from(
    [(1.0, 1.0, 1.0, 1.0), (0.1, 0.1, 0.2, 0.2), (0.033, 0.033, 0.067, 0.067), (0.1, 0.2, 0.3, 0.4)]
)


@few
@given(st.lists(st.tuples(box(min_side=32), box(min_side=32)), min_size=1, max_size=6), STDS)
def test_decode_undoes_encode(pairs: list[tuple[Box, Box]], stds: tuple[float, float, float, float]) -> None:
    a, b = as_tensor([a for a, _ in pairs]), as_tensor([b for _, b in pairs])
    torch.testing.assert_close(box_ops.decode(a, box_ops.encode(a, b, stds), stds), b, atol=1e-3, rtol=1e-5)


def test_deltas_are_centre_shifts_and_log_scales_over_their_stds() -> None:
    deltas = box_ops.encode(
        torch.tensor([[10.0, 20.0, 30.0, 60.0]]),
        torch.tensor([[15.0, 20.0, 35.0, 100.0]]),
        (0.1, 0.1, 0.2, 0.2),
    )
    expected = torch.tensor([[5 / 20 / 0.1, 20 / 40 / 0.1, 0.0, math.log(2) / 0.2]])
    torch.testing.assert_close(deltas, expected)


def test_a_regressor_can_enlarge_a_box_only_so_far() -> None:
    wild = box_ops.decode(
        torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([[0.0, 0.0, 50.0, 50.0]]), (1.0, 1.0, 1.0, 1.0)
    )
    torch.testing.assert_close(wild, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))


def test_decoding_in_half_precision_is_done_in_float32() -> None:
    boxes = torch.tensor([[1000.25, 500.5, 1040.75, 580.5]])
    assert torch.equal(box_ops.decode(boxes, torch.zeros(1, 4, dtype=torch.float16), (0.1,) * 4), boxes)


@pytest.mark.parametrize("flat", [[5.0, 5.0, 5.0, 5.0], [5.0, 5.0, 5.0, 9.0], [9.0, 9.0, 5.0, 5.0]])
def test_degenerate_boxes_have_no_area_no_overlap_and_finite_deltas(flat: list[float]) -> None:
    flat_box, other = torch.tensor([flat]), torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert float(box_ops.area(flat_box)) == 0
    assert float(box_ops.pairwise_iou(flat_box, other)) == 0
    assert [float(part) for part in box_ops.paired_quality(flat_box, other)] == [0, 0, 0]
    assert [float(part) for part in box_ops.paired_quality(other, flat_box)] == [0, 0, 0]
    assert box_ops.encode(flat_box, other, (0.1, 0.1, 0.2, 0.2)).isfinite().all()
    assert box_ops.encode(other, flat_box, (0.1, 0.1, 0.2, 0.2)).isfinite().all()


def test_two_empty_boxes_have_iou_zero_not_nan() -> None:
    point = torch.tensor([[3.0, 3.0, 3.0, 3.0]])
    assert float(box_ops.pairwise_iou(point, point)) == 0


@few
@given(st.lists(box(), min_size=2, max_size=6), st.integers(0, 60), st.integers(0, 60))
def test_clipped_boxes_lie_inside_their_own_image(rows: list[Box], height: int, width: int) -> None:
    batch = as_tensor(rows).expand(2, -1, -1) - 10
    clipped = box_ops.clip(batch, torch.tensor([[height, width], [1000, 1000]]))
    assert (clipped >= 0).all()
    assert (clipped[0, :, 0::2] <= width).all() and (clipped[0, :, 1::2] <= height).all()
    assert torch.equal(clipped[1], batch[1].clamp(min=0))  # the big image cuts nothing at its far sides
    assert torch.equal(box_ops.clip(clipped, torch.tensor([[height, width], [1000, 1000]])), clipped)


def test_clip_takes_boxes_with_a_class_axis() -> None:
    batch = torch.tensor([50.0, 50.0, 90.0, 90.0]).expand(2, 3, 4, 4)
    clipped = box_ops.clip(batch, torch.tensor([[60, 70], [80, 55]]))
    assert torch.equal(clipped[0], torch.tensor([50.0, 50.0, 70.0, 60.0]).expand(3, 4, 4))
    assert torch.equal(clipped[1], torch.tensor([50.0, 50.0, 55.0, 80.0]).expand(3, 4, 4))


def test_a_box_is_small_when_either_side_is() -> None:
    rows = torch.tensor([[0.0, 0.0, 1.0, 9.0], [0.0, 0.0, 9.0, 1.0], [0.0, 0.0, 2.0, 2.0]])
    assert box_ops.is_small(rows, 1.5).tolist() == [True, True, False]
