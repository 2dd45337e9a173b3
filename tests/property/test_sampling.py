"""Who learns what: matching, DRCNN's two samples, and jittered ground truth."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import boxes as box_ops
from model.sampling import (
    IGNORED,
    NEGATIVE,
    jitter_truths,
    match,
    pick,
    sample_classification,
    sample_regression,
)
from model.structures import Target

few = settings(max_examples=30, deadline=None)
BACKGROUND = 3


def random_boxes(count: int, seed: int, side: float = 30) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 60
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * side], dim=1)


def random_target(truths: int, crowds: int, seed: int) -> Target:
    labels = torch.arange(truths) % BACKGROUND
    return Target(random_boxes(truths, seed + 1), labels, random_boxes(crowds, seed + 2, side=50))


def expected_match(box: Tensor, target: Target, positive: float, negative: float) -> int:
    """The definition for one box, without rescue."""
    ious = [float(box_ops.pairwise_iou(box[None], t[None])) for t in target.boxes]
    best = max(range(len(ious)), key=lambda i: ious[i]) if ious else -1
    if ious and ious[best] >= positive:
        return best
    if ious and ious[best] >= negative:
        return IGNORED
    area = float(box_ops.area(box))
    inside = [float(box_ops.paired_intersection(box, c)) / max(area, 1e-9) for c in target.crowd_boxes]
    return IGNORED if inside and max(inside) > 0.5 else NEGATIVE


@few
@given(st.integers(0, 4), st.integers(0, 2), st.integers(0, 999), st.sampled_from([(0.5, 0.5), (0.7, 0.3)]))
def test_matching_is_its_definition(truths: int, crowds: int, seed: int, limits: tuple[float, float]) -> None:
    boxes, target = random_boxes(12, seed), random_target(truths, crowds, seed)
    found = match(boxes, target, *limits, rescue=False)
    assert found.tolist() == [expected_match(box, target, *limits) for box in boxes]


@few
@given(st.integers(1, 4), st.integers(0, 999))
def test_rescue_gives_every_touched_truth_a_box(truths: int, seed: int) -> None:
    boxes, target = random_boxes(12, seed), random_target(truths, 0, seed)
    plain = match(boxes, target, 0.7, 0.3, rescue=False)
    rescued = match(boxes, target, 0.7, 0.3, rescue=True)
    iou = box_ops.pairwise_iou(boxes, target.boxes)
    for truth in range(truths):
        best = iou[:, truth].max()
        if best > 0:
            assert (rescued[iou[:, truth] == best] >= 0).all()
    changed = rescued != plain
    assert (rescued[~changed] == plain[~changed]).all()
    assert ((iou == iou.amax(dim=0)).any(dim=1) | ~changed).all()


def test_a_truth_that_touches_nothing_rescues_nobody() -> None:
    far = Target(torch.tensor([[500.0, 500.0, 510.0, 510.0]]), torch.tensor([0]), torch.zeros(0, 4))
    assert (match(random_boxes(5, 0), far, 0.7, 0.3, rescue=True) == NEGATIVE).all()


def test_crowds_silence_negatives_but_not_positives() -> None:
    truth = [0.0, 0.0, 20.0, 20.0]
    target = Target(torch.tensor([truth]), torch.tensor([1]), torch.tensor([[0.0, 0.0, 60.0, 60.0]]))
    boxes = torch.tensor([truth, [30.0, 30.0, 50.0, 50.0], [55.0, 0.0, 75.0, 20.0], [70.0, 70.0, 80.0, 80.0]])
    assert match(boxes, target, 0.5, 0.5, rescue=False).tolist() == [0, IGNORED, NEGATIVE, NEGATIVE]


@few
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 999))
def test_pick_takes_at_most_that_many_distinct_rows(have: int, want: int, seed: int) -> None:
    torch.manual_seed(seed)
    rows = torch.arange(have) * 3
    picked = pick(rows, want)
    assert len(picked) == min(have, want) == len(picked.unique())
    assert set(picked.tolist()) <= set(rows.tolist())


def test_pick_prefers_no_row() -> None:
    torch.manual_seed(0)
    counts = torch.zeros(8)
    for _ in range(400):
        counts[pick(torch.arange(8), 4)] += 1
    assert (counts > 150).all() and (counts < 250).all()


@few
@given(
    st.integers(0, 60),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(0, 999),
    st.sampled_from([8, 32, 512]),
)
def test_the_classification_sample(proposals: int, truths: int, crowds: int, seed: int, batch: int) -> None:
    torch.manual_seed(seed)
    boxes, target = random_boxes(proposals, seed), random_target(truths, crowds, seed)
    sample = sample_classification(
        boxes, target, batch=batch, positive_fraction=0.25, positive_iou=0.5, background=BACKGROUND
    )
    everyone = torch.cat([boxes, target.boxes])
    matched = match(everyone, target, 0.5, 0.5, rescue=False)
    positive = sample.labels < BACKGROUND
    assert int(positive.sum()) == min(int((matched >= 0).sum()), batch // 4)
    assert int((~positive).sum()) == min(int((matched == NEGATIVE).sum()), batch - int(positive.sum()))
    iou, _, _ = box_ops.paired_quality(sample.boxes, sample.truths)
    assert (iou[positive] >= 0.5).all()
    # a positive's label is its truth's
    for box, label in zip(sample.truths[positive], sample.labels[positive], strict=True):
        row = int((target.boxes == box).all(dim=1).nonzero()[0])
        assert int(target.labels[row]) == int(label)
    if len(target.boxes):
        assert (box_ops.pairwise_iou(sample.boxes[~positive], target.boxes) < 0.5).all()


def test_ground_truth_joins_the_classification_sample_and_is_marked() -> None:
    target = random_target(2, 0, 5)
    sample = sample_classification(
        torch.zeros(0, 4), target, batch=512, positive_fraction=0.25, positive_iou=0.5, background=BACKGROUND
    )
    assert sample.from_truth.tolist() == [True, True]
    assert sorted(sample.labels.tolist()) == sorted(target.labels.tolist())


def test_without_truth_everything_is_background() -> None:
    boxes = random_boxes(10, 1)
    sample = sample_classification(
        boxes, Target.empty(), batch=8, positive_fraction=0.25, positive_iou=0.5, background=BACKGROUND
    )
    assert len(sample.boxes) == 8 and (sample.labels == BACKGROUND).all() and not sample.from_truth.any()


@few
@given(st.integers(0, 60), st.integers(0, 3), st.integers(0, 999), st.sampled_from([2, 512]))
def test_the_regression_sample_is_positives_only_and_without_truth(
    proposals: int, truths: int, seed: int, batch: int
) -> None:
    torch.manual_seed(seed)
    boxes, target = random_boxes(proposals, seed), random_target(truths, 0, seed)
    sampled, wished, labels = sample_regression(boxes, target, batch=batch, positive_iou=0.5)
    positives = int((match(boxes, target, 0.5, 0.5, rescue=False) >= 0).sum())
    assert len(sampled) == len(wished) == len(labels) == min(positives, batch)
    assert (box_ops.paired_quality(sampled, wished)[0] >= 0.5).all()
    known = {tuple(b.tolist()) for b in boxes}
    assert all(tuple(b.tolist()) in known for b in sampled)
    assert labels.dtype == torch.long


def test_ground_truth_alone_gives_the_regressors_nothing() -> None:
    sampled, wished, labels = sample_regression(
        torch.zeros(0, 4), random_target(3, 0, 1), batch=512, positive_iou=0.5
    )
    assert sampled.shape == wished.shape == (0, 4) and labels.shape == (0,)


CENTRED = torch.tensor([[180.0, 190.0, 220.0, 220.0]])
ROOM = torch.tensor([400, 400])


def jittered_quality(copies: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    moved = jitter_truths(CENTRED, copies, 0.1, ROOM)
    return box_ops.paired_quality(moved, CENTRED.expand(copies, 4))


def test_jittered_boxes_spread_over_all_ious() -> None:
    iou, _, _ = jittered_quality(4000)
    assert float(iou.min()) >= 0.1 - 1e-3
    for quantile in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert float(iou.quantile(quantile)) == pytest.approx(0.1 + 0.9 * quantile, abs=0.09)
    shares = torch.histc(iou, bins=9, min=0.1, max=1.0) / len(iou)
    assert (shares > 0.06).all() and (shares < 0.2).all()


def test_jitter_yields_cut_objects_and_loose_boxes() -> None:
    _, purity, integrity = jittered_quality(2000)
    assert float(((purity > 0.95) & (integrity < 0.7)).float().mean()) > 0.03
    assert float(((integrity > 0.95) & (purity < 0.7)).float().mean()) > 0.03


@few
@given(st.integers(0, 999), st.integers(0, 3))
def test_jittered_boxes_stay_inside_the_image_in_the_order_of_their_truths(seed: int, truths: int) -> None:
    torch.manual_seed(seed)
    base = box_ops.clip(random_boxes(truths, seed)[None], torch.tensor([[60, 70]]))[0]
    moved = jitter_truths(base, 6, 0.3, torch.tensor([60, 70]))
    assert moved.shape == (6 * truths, 4)
    assert (moved >= 0).all() and (moved[:, 0::2] <= 70).all() and (moved[:, 1::2] <= 60).all()
    solid = (box_ops.area(base) > 1).repeat_interleave(6)
    iou, _, _ = box_ops.paired_quality(moved, base.repeat_interleave(6, dim=0))
    assert (iou[solid] >= 0.3 - 1e-3).all()


def test_no_copies_and_no_truths_jitter_to_nothing() -> None:
    assert jitter_truths(torch.zeros(0, 4), 4, 0.1, ROOM).shape == (0, 4)
    assert jitter_truths(CENTRED, 0, 0.1, ROOM).shape == (0, 4)
