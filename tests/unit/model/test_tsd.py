"""TSD: each task looks where its offsets say, and the sibling is only the standard to beat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model.boxes import clip, decode
from model.config import HeadConfig
from model.detector import TwoStageDetector
from model.heads.box_deltas import box_loss, clip_lists, split_like
from model.heads.host import Refined, Rois, valid_boxes
from model.heads.tsd import OffsetPredictor, TsdHead, progressive_loss
from model.structures import Proposals, Target
from tests.unit.model.toys import CLASSES, full_size, number, toy_detector, toy_images, toy_targets

TSD = HeadConfig(kind="tsd", width=16, batch_per_image=32, stages=1, offset_width=16, positive_iou=0.01)


def head_of(detector: TwoStageDetector) -> TsdHead:
    assert isinstance(detector.head, TsdHead)
    return detector.head


@torch.no_grad()
def say(layer: nn.Linear, values: Sequence[float]) -> None:
    """Make a layer answer the same whatever it reads."""
    layer.weight.zero_()
    layer.bias.copy_(torch.tensor(values))


@torch.no_grad()
def read(detector: TwoStageDetector) -> tuple[Rois, Proposals, Refined]:
    images = toy_images(2)
    pyramid = detector.extract(images, full_size(images))
    proposals = detector.propose(pyramid, images, full_size(images))
    rois = detector.rois(pyramid)
    return rois, proposals, detector.refine(rois, proposals, full_size(images))


def losses(detector: TwoStageDetector, targets: list[Target] | None = None) -> dict[str, Tensor]:
    images = toy_images(2)
    torch.manual_seed(0)
    return detector.train().losses(images, full_size(images), toy_targets() if targets is None else targets)


def test_offsets_are_a_tenth_of_the_proposals_sides() -> None:
    predictor = OffsetPredictor(4 * 9, 8, 3, 0.1)
    say(predictor.shift, [1.0, -2.0])
    say(predictor.bins, [float(i) for i in range(18)])
    bins, shift = predictor(torch.randn(5, 4, 3, 3))
    torch.testing.assert_close(shift, torch.tensor([[0.1, -0.2]]).expand(5, 2))
    torch.testing.assert_close(bins[0], 0.1 * torch.arange(18.0).reshape(2, 3, 3))  # dx of all bins, then dy


def test_the_regressor_reads_and_corrects_the_moved_proposal() -> None:
    detector = toy_detector(head=TSD, localization=None)
    head = head_of(detector)
    say(head.offsets.shift, [1.0, -2.0])
    say(head.regressor.deltas, [0.0] * 4)
    _, proposals, refined = read(detector)
    wh = proposals.boxes[..., 2:] - proposals.boxes[..., :2]
    moved = proposals.boxes + (wh * torch.tensor([0.1, -0.2])).repeat(1, 1, 2)
    torch.testing.assert_close(refined.sources, moved)
    torch.testing.assert_close(refined.boxes, clip(moved, full_size(toy_images(2))), atol=1e-4, rtol=0)


def test_deltas_are_learnt_from_the_moved_proposal() -> None:
    """Where the move alone carries a proposal onto its truth, no delta is wished for."""
    detector = toy_detector(head=TSD)
    head = head_of(detector)
    say(head.regressor.deltas, [0.0] * 4)
    box, shift = torch.tensor([[10.0, 20.0, 40.0, 60.0]]), torch.tensor([[0.1, -0.3]])
    rois = Rois([torch.randn(1, 16, 8, 12)], [8], detector.config.pooling)
    moved, deltas = head._regress(rois, [box], shift, torch.tensor([0]))
    assert moved.tolist() == [[13.0, 8.0, 43.0, 48.0]]
    assert number(box_loss(moved, deltas, moved.detach(), TSD, 1.0)) == 0
    assert number(box_loss(moved, deltas, box, TSD, 1.0)) == pytest.approx(4.0)  # (.1 + .3) / its std .1


def test_the_sibling_has_no_say_at_inference() -> None:
    detector = toy_detector(head=TSD)
    _, _, before = read(detector)
    with torch.no_grad():
        for parameter in head_of(detector).sibling.parameters():
            parameter.fill_(float("nan"))
    _, _, after = read(detector)
    assert torch.equal(before.class_scores, after.class_scores) and torch.equal(before.boxes, after.boxes)


def test_bins_move_for_the_classifier_and_the_proposal_for_the_regressor() -> None:
    detector = toy_detector(head=TSD, localization=None)
    head = head_of(detector)
    _, proposals, still = read(detector)
    say(head.offsets.bins, [2.0] * (2 * 49))
    _, _, other_bins = read(detector)
    assert torch.equal(still.boxes, other_bins.boxes)
    assert not torch.allclose(still.class_scores, other_bins.class_scores, atol=1e-3)
    say(head.offsets.shift, [2.0, 2.0])
    _, _, shifted = read(detector)
    assert torch.equal(other_bins.class_scores, shifted.class_scores)
    assert not torch.allclose(still.boxes, shifted.boxes, atol=0.1)
    assert int(proposals.valid.sum()) > 10


def test_a_fresh_head_looks_at_the_proposal() -> None:
    detector = toy_detector(spread=False, head=TSD, localization=None)
    rois, proposals, _ = read(detector)
    with torch.no_grad():
        pooled = rois.fixed(proposals.boxes)
        expected = head_of(detector).classify(pooled)
        found = head_of(detector).classify_boxes(rois, proposals.boxes, pooled)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=0)


def test_rescoring_classifies_as_detecting_does() -> None:
    detector = toy_detector(head=TSD)
    images = toy_images(2)
    _, proposals, _ = read(detector)
    boxes = clip(proposals.boxes[:, :5], full_size(images))
    with torch.no_grad():
        rescored = detector.rescore(images, full_size(images), boxes, torch.tensor([5, 5]))[3]
    detector.config = replace(detector.config, localization=None)  # so that all proposals are refined
    _, _, refined = read(detector)
    torch.testing.assert_close(rescored, refined.class_scores[:, :5], atol=1e-5, rtol=0)


def test_training_sees_what_inference_sees() -> None:
    """The two poolings, through the whole head: the same boxes come out."""
    detector = toy_detector(head=TSD, localization=None)
    head = head_of(detector)
    rois, proposals, refined = read(detector)
    lists = valid_boxes(proposals)
    with torch.no_grad():
        shift = head.offsets(rois.ragged(lists))[1]
        labels = torch.zeros(sum(map(len, lists)), dtype=torch.long)
        moved, deltas = head._regress(rois, lists, shift, labels)
    torch.testing.assert_close(moved, refined.sources[proposals.valid], atol=1e-4, rtol=1e-5)
    boxes = clip_lists(split_like(decode(moved, deltas, TSD.stds[0]), lists), full_size(toy_images(2)))
    torch.testing.assert_close(torch.cat(boxes), refined.boxes[proposals.valid], atol=1e-3, rtol=0)


def test_the_progressive_constraint_is_a_hinge_above_the_sibling() -> None:
    sibling = torch.tensor([0.5, 0.5, 0.9, 0.9], requires_grad=True)
    own = torch.tensor([0.8, 0.6, 0.9, 1.0], requires_grad=True)
    loss = progressive_loss(own, sibling, 0.2)
    # past the margin; .1 short; margin cut to the .1 that is left; nothing better than 1
    assert number(loss) == pytest.approx((0.0 + 0.1 + 0.1 + 0.0) / 4, abs=1e-6)
    loss.backward()
    assert sibling.grad is None
    assert own.grad is not None and own.grad.tolist() == [0.0, -0.25, -0.25, 0.0]
    assert number(progressive_loss(own[:0], sibling[:0], 0.2)) == 0


def test_margins_and_weights_reach_the_losses() -> None:
    plain = losses(toy_detector(head=TSD, localization=None))
    assert set(plain) >= {"cls", "box_1", "tsd_cls", "tsd_box", "progressive_cls", "progressive_box"}
    wide = losses(toy_detector(head=replace(TSD, class_margin=0.4, iou_margin=0.5), localization=None))
    assert number(wide["progressive_cls"]) > number(plain["progressive_cls"])
    assert number(wide["progressive_box"]) > number(plain["progressive_box"])
    half = losses(toy_detector(head=replace(TSD, loss_weight=0.5), localization=None))
    for name in ("box_1", "tsd_box"):
        torch.testing.assert_close(2 * half[name], plain[name])


@pytest.mark.parametrize("term", ["tsd_cls", "tsd_box", "progressive_box"])
def test_offsets_learn_from_their_own_task(term: str) -> None:
    detector = toy_detector(head=TSD, localization=None)
    offsets = head_of(detector).offsets
    bins, shift = torch.autograd.grad(
        losses(detector)[term], [offsets.bins.weight, offsets.shift.weight], allow_unused=True
    )
    used, unused = (bins, shift) if term == "tsd_cls" else (shift, bins)
    assert used is not None and used.abs().max() > 0
    assert unused is None or not unused.any()


def test_it_learns() -> None:
    detector = toy_detector(spread=False, head=replace(TSD, positive_iou=0.5, width=32), localization=None)
    optimiser = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    history = []
    for _ in range(40):
        terms = losses(detector)
        history.append({name: number(value) for name, value in terms.items()})
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        optimiser.step()
    assert history[-1]["tsd_cls"] < 0.5 * history[0]["tsd_cls"]
    first, last = (sum(terms.values()) for terms in (history[0], history[-1]))
    assert last < 0.5 * first


def test_each_class_can_have_its_own_deltas() -> None:
    """The paper's detector; with the localization head regression is class-agnostic."""
    specific = replace(TSD, class_specific_first=True)
    detector = toy_detector(head=specific, localization=None)
    _, proposals, refined = read(detector)
    assert refined.boxes.shape == (*proposals.boxes.shape[:2], CLASSES, 4)
    terms = losses(detector)
    torch.stack(list(terms.values())).sum().backward()
    for deltas in (head_of(detector).regressor.deltas, head_of(detector).sibling.deltas):
        assert deltas.weight.grad is not None
        used = deltas.weight.grad.reshape(CLASSES, -1).any(dim=1)
        assert used.tolist() == [True, False, True]  # the classes of the toy's objects


def test_mixed_precision_trains() -> None:
    detector = toy_detector(head=TSD, localization=None)
    with torch.autocast("cpu", torch.bfloat16):
        terms = losses(detector)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    gradient = head_of(detector).offsets.shift.weight.grad
    assert gradient is not None and gradient.isfinite().all() and gradient.any()
