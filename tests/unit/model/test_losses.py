"""Loss terms: exact where the naive form is, finite where it is not, and never without a graph."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model import losses
from model.config import LocalizationConfig
from model.localization import LocalizationHead, fuse
from tests.unit.model.toys import number


def probability_form(purity: Tensor, integrity: Tensor) -> Tensor:
    """The paper's own spelling of IoU from purity and integrity."""
    return 1 / (1 / purity.sigmoid() + 1 / integrity.sigmoid() - 1)


def grid(low: float, high: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    a, b = torch.meshgrid(*[torch.linspace(low, high, 13, dtype=dtype)] * 2, indexing="ij")
    return a.flatten(), b.flatten()


def test_iou_logit_is_the_papers_formula() -> None:
    a, b = grid(-8, 8)
    torch.testing.assert_close(losses.iou_logit(a, b).sigmoid(), probability_form(a, b))
    torch.testing.assert_close(
        losses.iou_logit(a.float(), b.float()).sigmoid(), probability_form(a, b).float()
    )


def test_iou_logit_has_the_right_gradient() -> None:
    a, b = grid(-6, 6)
    assert torch.autograd.gradcheck(losses.iou_logit, (a.requires_grad_(), b.requires_grad_()))


def test_iou_never_exceeds_purity_or_integrity() -> None:
    a, b = grid(-20, 20)
    assert (losses.iou_logit(a, b) <= torch.minimum(a, b)).all()


@pytest.mark.parametrize("pair", [(-12.0, -12.0), (9.0, 9.0), (60.0, 60.0), (-60.0, -60.0), (60.0, -60.0)])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_half_precision_logits_give_finite_loss_and_gradient(
    pair: tuple[float, float], target: float
) -> None:
    a, b = (torch.tensor([v], dtype=torch.float16, requires_grad=True) for v in pair)
    logit = losses.iou_logit(a, b)
    loss = losses.soft_bce(logit, torch.tensor([target]))
    loss.backward()
    assert logit.dtype == torch.float32 and logit.isfinite().all() and loss.isfinite()
    for leaf in (a, b):
        assert leaf.grad is not None and leaf.grad.isfinite().all()


@pytest.mark.parametrize("term", [losses.soft_bce, losses.cross_entropy])
def test_nothing_to_learn_from_is_zero_with_a_graph(term: object) -> None:
    shape, kind = ((0, 4), torch.long) if term is losses.cross_entropy else ((0,), torch.float32)
    logits = torch.zeros(shape, requires_grad=True)
    loss = term(logits, torch.zeros(0, dtype=kind))  # type: ignore[operator]
    loss.backward()
    assert number(loss) == 0 and logits.grad is not None


def test_soft_bce_is_the_mean_cross_entropy() -> None:
    logits, targets = torch.tensor([0.3, -2.0, 5.0]), torch.tensor([0.2, 0.9, 1.0])
    p = logits.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    torch.testing.assert_close(losses.soft_bce(logits, targets), expected)


def test_the_entropy_floor_is_what_a_perfect_prediction_costs() -> None:
    targets = torch.tensor([0.02, 0.3, 0.5, 0.77, 0.999])
    perfect = losses.soft_bce(targets.logit(), targets) - losses.binary_entropy(targets).mean()
    assert float(perfect) == pytest.approx(0, abs=1e-6)
    hard = torch.tensor([0.0, 1.0])
    assert losses.binary_entropy(hard).tolist() == pytest.approx([0, 0], abs=3e-6)
    worse = losses.soft_bce(targets.logit() + 0.5, targets) - losses.binary_entropy(targets).mean()
    assert float(worse) > 0.01


def test_l1_divides_the_weighted_sum_by_what_it_is_told() -> None:
    deltas = torch.tensor([[1.0, 2.0, 3.0, 4.0], [9.0, 9.0, 9.0, 9.0]], requires_grad=True)
    loss = losses.l1(deltas, torch.zeros(2, 4), torch.tensor([1.0, 0.0]), 20.0)
    loss.backward()
    assert number(loss) == 0.5
    assert deltas.grad is not None and torch.equal(deltas.grad[1], torch.zeros(4))


def test_cross_entropy_is_the_mean_over_boxes() -> None:
    logits, labels = torch.tensor([[2.0, 0.0, -1.0], [0.5, 0.5, 0.5]]), torch.tensor([0, 2])
    expected = -logits.log_softmax(dim=1)[torch.arange(2), labels].mean()
    torch.testing.assert_close(losses.cross_entropy(logits, labels), expected)


def localization_head() -> LocalizationHead:
    torch.manual_seed(0)
    head = LocalizationHead(2 * 3 * 3, LocalizationConfig(width=8))
    with torch.no_grad():
        for branch in (head.purity, head.integrity):
            branch[1].weight.normal_(0, 1)
    return head


def test_the_head_reports_an_iou_that_follows_from_its_other_two() -> None:
    quality = localization_head()(torch.randn(40, 2, 3, 3) * 3)
    expected = 1 / (1 / quality.purities + 1 / quality.integrities - 1)
    torch.testing.assert_close(quality.ious, expected)
    assert quality.purities.std() > 0.05 and not torch.allclose(quality.purities, quality.integrities)


def test_the_head_learns_the_true_ratios_of_its_boxes() -> None:
    head, pooled = localization_head(), torch.randn(2, 2, 3, 3)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 10.0]], requires_grad=True)
    truths = torch.tensor([[0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 10.0]])
    terms = head.losses(pooled, boxes, truths)
    purity, integrity = head.logits(pooled)
    wished = {"purity": [0.5, 1.0], "integrity": [1.0, 0.4], "iou": [0.5, 0.4]}
    logits = {"purity": purity, "integrity": integrity, "iou": losses.iou_logit(purity, integrity)}
    for name, target in wished.items():
        t = torch.tensor(target)
        floor = -(torch.xlogy(t, t) + torch.xlogy(1 - t, 1 - t)).mean()
        expected = F.binary_cross_entropy_with_logits(logits[name], t) - floor
        torch.testing.assert_close(terms[name], expected, atol=5e-6, rtol=1e-5)
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert boxes.grad is None


def test_the_head_without_boxes_costs_nothing_but_keeps_every_parameter_in_the_graph() -> None:
    head = localization_head()
    terms = head.losses(torch.zeros(0, 2, 3, 3), torch.zeros(0, 4), torch.zeros(0, 4))
    assert [number(v) for v in terms.values()] == [0, 0, 0]
    sum(terms.values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None for p in head.parameters())


def test_fusion_runs_from_the_class_score_to_the_iou() -> None:
    class_scores = torch.tensor([[[0.9, 0.4]], [[0.9, 0.4]], [[0.9, 0.4]]])
    ious = torch.tensor([[0.25], [0.25], [0.25]])
    fused = fuse(class_scores, ious, torch.tensor([0.0, 0.5, 1.0]))
    expected = torch.tensor([[[0.9, 0.4]], [[0.225**0.5, 0.1**0.5]], [[0.25, 0.25]]])
    torch.testing.assert_close(fused, expected)
    assert torch.equal(fused[0], class_scores[0])
