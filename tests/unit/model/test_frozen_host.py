"""A frozen host stays bit for bit what it is; its localization head learns as it would in full training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import HeadConfig, LocalizationConfig
from model.detector import TwoStageDetector
from model.structures import Proposals, Target
from tests.unit.model.test_hosts import HOSTS
from tests.unit.model.toys import (
    CLASSES,
    detect,
    full_size,
    toy_config,
    toy_detector,
    toy_images,
    toy_targets,
)

SPECIFIC = HeadConfig(kind="shared", stages=1, width=16, batch_per_image=32, class_specific_first=True)
CONVOLUTIONAL = replace(SPECIFIC, convs=2)
ALL_HOSTS = {**HOSTS, "shared, a box a class": SPECIFIC, "shared, convolutions": CONVOLUTIONAL}


def host_of(detector: TwoStageDetector) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in detector.state_dict().items() if not k.startswith("localization.")}


def train(detector: TwoStageDetector, steps: int = 3) -> dict[str, Tensor]:
    """A few steps as the loop takes them; the last step's losses."""
    optimiser = torch.optim.AdamW((p for p in detector.parameters() if p.requires_grad), lr=1e-2)
    images = toy_images(2)
    terms: dict[str, Tensor] = {}
    for _ in range(steps):
        terms = detector.train().losses(images, full_size(images), toy_targets())
        optimiser.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        optimiser.step()
    return terms


@pytest.mark.parametrize("head", ALL_HOSTS.values(), ids=ALL_HOSTS)
def test_only_the_localization_head_changes(head: HeadConfig) -> None:
    detector = toy_detector(head=head)
    detector.freeze_host()
    before = host_of(detector)
    assert detector.localization is not None
    learned = {k: v.clone() for k, v in detector.localization.state_dict().items()}
    terms = train(detector)
    assert set(terms) == {"purity", "integrity", "iou"}
    for key, value in host_of(detector).items():
        assert torch.equal(value, before[key]), key
    for key, value in detector.localization.state_dict().items():
        assert not torch.equal(value, learned[key]), key
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is not None) == name.startswith("localization."), name


@pytest.mark.parametrize("head", ALL_HOSTS.values(), ids=ALL_HOSTS)
def test_the_head_sees_the_boxes_of_full_training(head: HeadConfig) -> None:
    """`positives` gives what `losses` regresses, from the same random sample."""
    detector = toy_detector(head=head).eval()
    images, targets = toy_images(2), toy_targets()
    sizes = full_size(images)
    with torch.no_grad():
        rois = detector.rois(detector.extract(images, sizes))
        torch.manual_seed(2)
        near = targets[0].boxes.repeat(20, 1)[None].expand(2, -1, -1) + torch.randn(2, 40, 4) * 3
        proposals = Proposals(near, torch.ones(2, 40, dtype=torch.bool))
        torch.manual_seed(3)
        _, expected = detector.head.losses(rois, [proposals, proposals], targets, sizes)
        torch.manual_seed(3)
        found = detector.head.positives(rois, [proposals], targets, sizes)
    assert sum(len(boxes) for boxes in expected.boxes) > 3  # two of them are truths
    for theirs, ours in zip(expected, found, strict=True):
        for a, b in zip(theirs, ours, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-5)


def test_training_mode_never_reaches_the_host() -> None:
    detector = toy_detector(head=HOSTS["double"])
    detector.freeze_host()
    detector.train()
    assert detector.training and detector.localization is not None and detector.localization.training
    for part in (detector.backbone, detector.fpn, detector.head):
        assert not any(module.training for module in part.modules())
    assert detector.rpn.training  # as many proposals as in any training
    detector.eval()
    assert not any(module.training for module in detector.modules())


def test_images_without_objects_do_no_harm() -> None:
    detector = toy_detector()
    detector.freeze_host()
    images = toy_images(1)
    terms = detector.train().losses(images, full_size(images), [Target.empty()])
    total = torch.stack(list(terms.values())).sum()
    assert float(total.detach()) == 0
    total.backward()
    assert detector.localization is not None
    assert all(p.grad is not None and not p.grad.any() for p in detector.localization.parameters())


def test_there_must_be_a_head_to_train() -> None:
    with pytest.raises(ValueError, match="no localization head to train"):
        toy_detector(localization=None).freeze_host()


def with_head(host: TwoStageDetector, looks: int) -> TwoStageDetector:
    """The same weights, and a localization head behind them."""
    look = LocalizationConfig(width=16, boxes_at_inference=looks)
    detector = TwoStageDetector(replace(host.config, localization=look))
    detector.load_state_dict(host.state_dict(), strict=False)
    return detector.eval()


@pytest.mark.parametrize("head", [SPECIFIC, CONVOLUTIONAL, HOSTS["shared"]])
def test_a_new_head_leaves_the_hosts_detections_alone(head: HeadConfig) -> None:
    """With the IoU's weight at 0 and every candidate looked at: also where each class has its own box."""
    host = toy_detector(head=head, localization=None)
    detector = with_head(host, toy_config().rpn.post_nms_test * CLASSES)
    images = toy_images(2)
    expected, found = detect(host, images), detect(detector, images, iou_weight=0.0)
    assert int(expected.num_detections.sum()) > 10
    assert torch.equal(found.num_detections, expected.num_detections)
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-5, rtol=0)
    assert found.ious is not None and expected.ious is None and bool((found.ious[0, 0] > 0).all())


def test_few_looks_go_to_the_best_pairs_of_proposal_and_class() -> None:
    host = toy_detector(head=SPECIFIC, localization=None)
    images = toy_images(2)
    with torch.no_grad():
        wide = host.candidates(images, full_size(images))
        narrow = with_head(host, 7).candidates(images, full_size(images))
    assert narrow.boxes.shape == (2, 7, 4) and narrow.ious is not None and narrow.ious.shape == (2, 7)
    best = wide.class_scores.flatten(1).topk(7, dim=1)
    torch.testing.assert_close(narrow.class_scores.max(dim=-1).values, best.values)
    assert bool(((narrow.class_scores > 0).sum(dim=-1) == 1).all())
    of_pair = wide.boxes.flatten(1, 2).gather(1, best.indices[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(narrow.boxes, of_pair, atol=1e-3, rtol=0)
