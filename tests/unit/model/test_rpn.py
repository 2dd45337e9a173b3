"""Proposals: fixed shapes whatever the image holds, images apart, and losses with nothing to find."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model import boxes as box_ops
from model.config import RpnConfig
from model.rpn import RPN_STDS, RegionProposalNetwork
from model.structures import Proposals, Target
from tests.unit.model.toys import number

LEVELS, STRIDES, IMAGE = [(8, 12), (4, 6)], [8, 16], (64, 96)
CONFIG = RpnConfig(
    anchor_sizes=(16, 32), pre_nms_train=30, pre_nms_test=50, post_nms_train=25, post_nms_test=80
)
Heads = tuple[list[Tensor], list[Tensor], list[Tensor]]


def network() -> RegionProposalNetwork:
    torch.manual_seed(0)
    return RegionProposalNetwork(CONFIG, 4, STRIDES).eval()


def heads(batch: int, seed: int = 0, levels: list[tuple[int, int]] = LEVELS) -> Heads:
    """What the network would say of random features: logits, deltas, anchors per level."""
    rpn = network()
    torch.manual_seed(seed)
    _, _, anchors = rpn([torch.zeros(batch, 4, h, w) for h, w in levels], IMAGE)
    logits = [torch.randn(batch, len(a)) * 3 for a in anchors]
    deltas = [torch.randn(batch, len(a), 4) * 0.2 for a in anchors]
    return logits, deltas, anchors


def sizes(batch: int) -> Tensor:
    return torch.tensor([IMAGE] * batch)


def propose(rpn: RegionProposalNetwork, found: Heads, image_sizes: Tensor, *limits: float) -> list[Proposals]:
    return rpn.propose(*found, image_sizes, limits or (0.7,))


def test_predictions_line_up_with_anchors() -> None:
    """Channel (anchor, coordinate) of a position ends up in the row of that position's anchor."""
    rpn = network()
    with torch.no_grad():
        rpn.deltas.weight.zero_()
        rpn.deltas.bias.copy_(torch.arange(12.0))
        rpn.objectness.weight.zero_()
        rpn.objectness.bias.copy_(torch.tensor([5.0, 6.0, 7.0]))
    logits, deltas, anchors = rpn([torch.randn(2, 4, h, w) for h, w in LEVELS], IMAGE)
    assert [a.shape for a in anchors] == [(8 * 12 * 3, 4), (4 * 6 * 3, 4)]
    assert torch.equal(deltas[0][1].reshape(-1, 3, 4), torch.arange(12.0).reshape(3, 4).expand(96, 3, 4))
    assert torch.equal(logits[1][0].reshape(-1, 3), torch.tensor([5.0, 6.0, 7.0]).expand(24, 3))


def test_positions_are_read_row_by_row() -> None:
    rpn = network()
    feature = torch.zeros(1, 4, 4, 6)
    feature[0, :, 3, 5] = 100
    logits, _, anchors = rpn([torch.zeros(1, 4, 8, 12), feature], IMAGE)
    quiet = logits[1][0, 0]
    changed = anchors[1][(logits[1][0] - quiet).abs() > 1e-4]
    centres = (changed[:, :2] + changed[:, 2:]) / 2
    assert centres.amax(dim=0).tolist() == [5 * 16, 3 * 16] and centres.amin(dim=0).tolist() == [
        4 * 16,
        2 * 16,
    ]


@pytest.mark.parametrize("levels", [LEVELS, [(1, 1), (1, 1)], [(2, 1), (1, 1)]])
def test_shapes_are_fixed_however_few_anchors_there_are(levels: list[tuple[int, int]]) -> None:
    rpn = network()
    proposals = propose(rpn, heads(2, levels=levels), sizes(2))[0]
    assert proposals.boxes.shape == (2, 80, 4) and proposals.valid.shape == (2, 80)
    count = proposals.valid.sum(dim=1)
    assert (count >= 1).all() and (count <= sum(h * w * 3 for h, w in levels)).all()
    assert (proposals.valid == (torch.arange(80) < count[:, None])).all()  # best first, no gaps
    assert not proposals.boxes[~proposals.valid].any()
    assert (box_ops.area(proposals.boxes[proposals.valid]) > 0).all()


def test_training_and_inference_have_lengths_of_their_own() -> None:
    rpn = network().train()
    assert propose(rpn, heads(1), sizes(1))[0].boxes.shape == (1, 25, 4)


def test_proposals_are_the_best_of_each_level_suppressed_apart() -> None:
    rpn, (logits, deltas, anchors) = network(), heads(1, seed=3)
    found = propose(rpn, (logits, deltas, anchors), sizes(1))[0]
    rows: list[tuple[float, Tensor]] = []
    for level in range(2):
        scores, order = logits[level][0].sort(descending=True)
        boxes = box_ops.clip(box_ops.decode(anchors[level], deltas[level][0], RPN_STDS)[None], sizes(1))[0][
            order
        ][:50]
        kept: list[int] = []
        for i, box in enumerate(boxes):
            if all(float(box_ops.pairwise_iou(box[None], boxes[j : j + 1])) <= 0.7 for j in kept):
                kept.append(i)
        rows += [(float(scores[i]), boxes[i]) for i in kept]
    rows.sort(key=lambda row: -row[0])
    expected = torch.stack([box for _, box in rows[:80]])
    assert int(found.valid.sum()) == len(expected)
    assert torch.equal(found.boxes[0, : len(expected)], expected)


def test_both_lists_come_from_one_decoding_and_the_denser_one_holds_more() -> None:
    rpn, found = network(), heads(4, seed=1)
    sparse, dense = propose(rpn, found, sizes(4), 0.3, 0.85)
    assert (dense.valid.sum(dim=1) > sparse.valid.sum(dim=1)).all()
    assert torch.equal(propose(rpn, found, sizes(4), 0.85)[0].boxes, dense.boxes)
    assert torch.equal(propose(rpn, found, sizes(4), 0.3)[0].boxes, sparse.boxes)


def test_an_images_proposals_do_not_depend_on_its_neighbours() -> None:
    rpn, (logits, deltas, anchors) = network(), heads(3, seed=2)
    image_sizes = torch.tensor([[64, 96], [40, 50], [64, 20]])
    together = propose(rpn, (logits, deltas, anchors), image_sizes)[0]
    for i in range(3):
        mine = ([v[i : i + 1] for v in logits], [v[i : i + 1] for v in deltas], anchors)
        alone = propose(rpn, mine, image_sizes[i : i + 1])[0]
        assert torch.equal(alone.boxes[0], together.boxes[i])
        assert torch.equal(alone.valid[0], together.valid[i])


def test_proposals_stay_inside_the_valid_image() -> None:
    boxes = propose(network(), heads(1, seed=5), torch.tensor([[33, 41]]))[0].boxes
    assert (boxes >= 0).all() and (boxes[..., 0::2] <= 41).all() and (boxes[..., 1::2] <= 33).all()


def test_an_image_without_pixels_has_no_proposals() -> None:
    found = propose(network(), heads(1), torch.tensor([[0, 0]]))[0]
    assert not found.valid.any() and not found.boxes.any()


def test_proposals_carry_no_gradient() -> None:
    logits, deltas, anchors = heads(1)
    found = propose(network(), ([v.requires_grad_() for v in logits], deltas, anchors), sizes(1))[0]
    assert not found.boxes.requires_grad


def leaves(found: Heads) -> Heads:
    return [v.requires_grad_() for v in found[0]], [v.requires_grad_() for v in found[1]], found[2]


def test_without_truth_only_objectness_learns() -> None:
    logits, deltas, anchors = leaves(heads(2))
    terms = network().losses(logits, deltas, anchors, [Target.empty(), Target.empty()])
    (terms["rpn_cls"] + terms["rpn_box"]).backward()
    assert number(terms["rpn_box"]) == 0 and number(terms["rpn_cls"]) > 0
    gradient = torch.cat([v.grad for v in logits if v.grad is not None], dim=1)
    assert (gradient >= 0).all()  # every anchor is pushed down or left alone
    assert (gradient > 0).sum(dim=1).tolist() == [256, 256]
    assert all(v.grad is not None and not v.grad.any() for v in deltas)


def test_an_image_that_is_all_crowd_teaches_nothing() -> None:
    logits, deltas, anchors = leaves(heads(1))
    everywhere = torch.tensor([[-500.0, -500.0, 600.0, 600.0]])
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), everywhere)
    terms = network().losses(logits, deltas, anchors, [target])
    (terms["rpn_cls"] + terms["rpn_box"]).backward()
    assert number(terms["rpn_cls"]) == number(terms["rpn_box"]) == 0
    assert all(v.grad is not None and not v.grad.any() for v in logits)


def test_anchors_in_a_crowd_are_left_out_and_the_others_are_not() -> None:
    logits, deltas, anchors = leaves(heads(1))
    crowd = torch.tensor([[0.0, 0.0, 48.0, 64.0]])
    target = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), crowd)
    network().losses(logits, deltas, anchors, [target])["rpn_cls"].backward()
    gradient = torch.cat([v.grad for v in logits if v.grad is not None], dim=1)[0]
    every = torch.cat(anchors)
    inside = box_ops.pairwise_intersection(every, crowd)[:, 0] > 0.5 * box_ops.area(every)
    assert inside.any() and not gradient[inside].any() and (gradient[~inside] > 0).any()


def test_perfect_predictions_cost_next_to_nothing() -> None:
    rpn, (logits, deltas, anchors) = network(), heads(1)
    truths = torch.tensor([[10.0, 10.0, 28.0, 26.0], [40.0, 20.0, 75.0, 50.0]])
    target = Target(truths, torch.tensor([0, 1]), torch.zeros(0, 4))
    for level in range(2):
        iou = box_ops.pairwise_iou(anchors[level], truths)
        best = iou.argmax(dim=1)
        deltas[level][0] = box_ops.encode(anchors[level], truths[best], RPN_STDS)
    every = torch.cat(anchors)
    iou = box_ops.pairwise_iou(every, truths)
    positive = (iou >= 0.7).any(dim=1) | (iou == iou.amax(dim=0)).any(dim=1)
    assert positive.any()
    split = positive.split([len(a) for a in anchors])
    for level in range(2):
        logits[level][0] = torch.where(split[level], 30.0, -30.0)
    terms = rpn.losses(logits, deltas, anchors, [target])
    assert number(terms["rpn_cls"]) < 1e-6 and number(terms["rpn_box"]) < 1e-5


def test_losses_are_averaged_over_the_sample() -> None:
    """Logits of zero cost log 2 an anchor, however many images and anchors there are."""
    logits, deltas, anchors = heads(3)
    flat = [torch.zeros_like(v) for v in logits]
    truth = Target(torch.tensor([[10.0, 10.0, 28.0, 26.0]]), torch.tensor([0]), torch.zeros(0, 4))
    terms = network().losses(flat, deltas, anchors, [truth, Target.empty(), truth])
    assert number(terms["rpn_cls"]) == pytest.approx(0.693147, rel=1e-4)
