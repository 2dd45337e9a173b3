"""Decoupled R-CNN's cascade: each stage learns on what the one before it left, and from nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from model import boxes as box_ops
from model.config import HeadConfig
from model.heads.box_deltas import deltas_of_class
from model.heads.decoupled import DecoupledHead
from model.heads.regressors import cascade_losses, refine_ragged
from model.structures import Target
from tests.unit.model.toys import number

CHANNELS, SIZES = 8, torch.tensor([[100, 120], [100, 120]])
TRUTHS = torch.tensor([[10.0, 10.0, 40.0, 40.0], [60.0, 20.0, 110.0, 80.0]])


class RecordingPool:
    """Features that are a fixed function of the boxes; remembers every list it pooled."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def __call__(self, lists: Sequence[Tensor]) -> Tensor:
        self.seen.append(list(lists))
        flat = torch.cat(list(lists)) / 100
        return torch.cat([flat, flat**2], dim=1)[:, :, None, None]


def head(config: HeadConfig, classes: int = 3) -> DecoupledHead:
    torch.manual_seed(0)
    made = DecoupledHead(CHANNELS, config, classes)
    for regressor in made.regressors:
        torch.nn.init.normal_(regressor.deltas.weight, std=0.3)  # type: ignore[union-attr,arg-type]
    return made


def config(**changes: object) -> HeadConfig:
    return HeadConfig(width=8, **changes)  # type: ignore[arg-type]


def inputs() -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Target]]:
    """Two images, three boxes on the first object pair, one on the second image's."""
    boxes = [TRUTHS[[0, 0, 1]] + torch.tensor([[2.0, 1.0, 3.0, -2.0]]), TRUTHS[1:] - 4.0]
    truths, labels = [TRUTHS[[0, 0, 1]], TRUTHS[1:]], [torch.tensor([0, 0, 2]), torch.tensor([1])]
    targets = [
        Target(TRUTHS, torch.tensor([0, 2]), torch.zeros(0, 4)),
        Target(TRUTHS[1:], torch.tensor([1]), torch.zeros(0, 4)),
    ]
    return boxes, truths, labels, targets


def run(made: DecoupledHead, settings: HeadConfig, pool: RecordingPool | None = None) -> dict[str, Tensor]:
    boxes, truths, labels, targets = inputs()
    return cascade_losses(made, settings, pool or RecordingPool(), boxes, truths, labels, targets, SIZES)


def silence(made: DecoupledHead, stage: int, bias: Sequence[float]) -> None:
    """The stage says `bias` of every box."""
    with torch.no_grad():
        made.regressors[stage].deltas.weight.zero_()  # type: ignore[union-attr,operator]
        made.regressors[stage].deltas.bias.copy_(torch.tensor(bias))  # type: ignore[union-attr,operator]


def test_each_stage_pools_the_detached_boxes_of_the_stage_before() -> None:
    settings, pool = config(), RecordingPool()
    made = head(settings)
    run(made, settings, pool)
    boxes, _, labels, _ = inputs()
    assert len(pool.seen) == 3
    for stage in (1, 2):
        before = config(stages=stage)
        expected, _ = refine_ragged(made, before, RecordingPool(), boxes, torch.cat(labels), SIZES)
        for mine, other in zip(pool.seen[stage], expected, strict=True):
            assert torch.equal(mine, other) and not mine.requires_grad
        assert not torch.equal(pool.seen[stage][0], boxes[0])


def test_a_stages_loss_reaches_no_other_regressor() -> None:
    settings = config()
    made = head(settings)
    terms = run(made, settings)
    for stage in range(3):
        for other in range(3):
            parameters = list(made.regressors[other].parameters())
            gradients = torch.autograd.grad(
                terms[f"box_{stage + 1}"], parameters, retain_graph=True, allow_unused=True
            )
            assert all((g is not None) == (stage == other) for g in gradients)
    assert not any(torch.autograd.grad(terms["box_1"], list(made.classifier.parameters()), allow_unused=True))


def test_boxes_that_fell_below_half_overlap_weigh_nothing() -> None:
    settings = config(stages=2)
    made = head(settings)
    silence(made, 0, [9.0, 0.0, 0.0, 0.0])  # 0.9 of a width to the right: no overlap is left to speak of
    terms = run(made, settings)
    assert number(terms["box_2"]) == 0
    gradients = torch.autograd.grad(terms["box_2"], list(made.regressors[1].parameters()))
    assert not any(g.any() for g in gradients)


def test_only_the_boxes_above_half_overlap_teach_the_next_stage() -> None:
    settings = config(stages=2)
    made = head(settings)
    silence(made, 0, [0.0] * 4)
    silence(made, 1, [0.0] * 4)
    boxes = [torch.cat([TRUTHS[:1] + 3, TRUTHS[:1] + 12]), torch.zeros(0, 4)]  # IoU .68 and .22
    target = [Target(TRUTHS[:1], torch.tensor([0]), torch.zeros(0, 4)), Target.empty()]
    truths, labels = [TRUTHS[[0, 0]], torch.zeros(0, 4)], [torch.zeros(2, dtype=torch.long)] * 2
    labels[1] = labels[1][:0]
    terms = cascade_losses(made, settings, RecordingPool(), boxes, truths, labels, target, SIZES)
    wished = box_ops.encode(boxes[0][:1], TRUTHS[:1], settings.stds[1])
    assert number(terms["box_2"]) == pytest.approx(0.5 * float(wished.abs().sum()) / (512 * 2), rel=1e-5)


def test_boxes_are_assigned_anew_at_every_stage() -> None:
    """The first stage carries the box onto the other object: that one is the second stage's truth."""
    settings = config(stages=2)
    made = head(settings)
    onto_other = box_ops.encode(TRUTHS[:1], TRUTHS[1:] + 2.0, settings.stds[0])[0]
    silence(made, 0, onto_other.tolist())
    silence(made, 1, [0.0] * 4)
    target = [Target(TRUTHS, torch.tensor([0, 2]), torch.zeros(0, 4))]
    terms = cascade_losses(
        made, settings, RecordingPool(), [TRUTHS[:1]], [TRUTHS[:1]], [torch.tensor([0])], target, SIZES[:1]
    )
    wished = box_ops.encode(TRUTHS[1:] + 2.0, TRUTHS[1:], settings.stds[1])
    assert number(terms["box_2"]) == pytest.approx(0.5 * float(wished.abs().sum()) / 512, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({"stages": 3}, 0.5),
        ({"stages": 1}, 1.0),
        ({"stages": 3, "loss_weight": 2.0}, 2.0),
        ({"stages": 3, "regression_batch_per_image": 256}, 1.0),
    ],
)
def test_the_sum_is_divided_by_the_padded_batch_and_weighed_by_lambda(
    changes: dict[str, object], factor: float
) -> None:
    settings = config(**changes)
    made = head(settings)
    silence(made, 0, [0.0] * 4)
    boxes, truths, _, _ = inputs()
    wished = box_ops.encode(torch.cat(boxes), torch.cat(truths), settings.stds[0])
    expected = factor * float(wished.abs().sum()) / (512 * 2)
    assert number(run(made, settings)["box_1"]) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_boxes_costs_nothing_and_keeps_the_graph() -> None:
    settings = config()
    made = head(settings)
    none = [torch.zeros(0, 4)] * 2
    labels = [torch.zeros(0, dtype=torch.long)] * 2
    terms = cascade_losses(
        made, settings, RecordingPool(), none, none, labels, [Target.empty(), Target.empty()], SIZES
    )
    assert [number(v) for v in terms.values()] == [0, 0, 0]
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in made.regressors.parameters())


def test_a_class_specific_stage_learns_only_the_boxs_own_class() -> None:
    settings = config(class_specific_first=True)
    made = head(settings)
    assert made.regress(0, torch.zeros(1, CHANNELS, 1, 1)).shape == (1, 12)
    assert made.regress(1, torch.zeros(1, CHANNELS, 1, 1)).shape == (1, 4)
    boxes, truths, _, targets = inputs()
    labels = [torch.tensor([2, 2, 2]), torch.tensor([2])]
    terms = cascade_losses(made, settings, RecordingPool(), boxes, truths, labels, targets, SIZES)
    bias = made.regressors[0].deltas.bias  # type: ignore[union-attr]
    (gradient,) = torch.autograd.grad(terms["box_1"], [bias])  # type: ignore[list-item]
    assert gradient.reshape(3, 4).abs().sum(dim=1).gt(0).tolist() == [False, False, True]


def test_a_box_that_may_shrink_only_so_far_still_teaches_the_next_stage() -> None:
    """Its IoU with the truth stays above nothing."""
    for limited in (True, False):
        settings = config(stages=2, positive_iou=1e-6, shrink_limited=limited)
        made = head(settings)
        for regressor in made.regressors:
            torch.nn.init.zeros_(regressor.deltas.weight)  # type: ignore[union-attr,arg-type]
            regressor.deltas.bias.data = torch.tensor([0.0, 0.0, -1e4, -1e4])  # type: ignore[union-attr]
        assert (number(run(made, settings)["box_2"]) > 0) == limited


def test_deltas_of_class_takes_each_boxs_own() -> None:
    deltas = torch.arange(24.0).reshape(2, 12)
    assert deltas_of_class(deltas, torch.tensor([2, 0])).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]
    assert torch.equal(deltas_of_class(deltas[:, :4], torch.tensor([2, 0])), deltas[:, :4])


def test_refined_boxes_stay_in_their_images_and_carry_no_gradient() -> None:
    settings = config()
    made = head(settings)
    boxes, _, labels, _ = inputs()
    small = torch.tensor([[30, 35], [70, 100]])
    refined, _ = refine_ragged(made, settings, RecordingPool(), boxes, torch.cat(labels), small)
    for part, (height, width) in zip(refined, small.tolist(), strict=True):
        assert not part.requires_grad and (part >= 0).all()
        assert (part[:, 0::2] <= width).all() and (part[:, 1::2] <= height).all()


def test_features_at_hand_are_not_pooled_again() -> None:
    settings, pool = config(), RecordingPool()
    made = head(settings)
    boxes, _, labels, _ = inputs()
    first = RecordingPool()(boxes)
    given, _ = refine_ragged(made, settings, pool, boxes, torch.cat(labels), SIZES, first_pooled=first)
    assert len(pool.seen) == 2
    pooled, _ = refine_ragged(made, settings, RecordingPool(), boxes, torch.cat(labels), SIZES)
    assert all(torch.equal(a, b) for a, b in zip(given, pooled, strict=True))
