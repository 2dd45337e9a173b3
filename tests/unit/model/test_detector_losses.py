"""Training the whole detector at toy width: every part learns, and only from what it should."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import HeadConfig, LocalizationConfig
from model.detector import TwoStageDetector
from model.structures import Target
from tests.unit.model.toys import full_size, number, toy_config, toy_detector, toy_images, toy_targets

TERMS = {"rpn_cls", "rpn_box", "cls", "box_1", "box_2", "box_3", "purity", "integrity", "iou"}
LOCALIZATION = ("purity", "integrity", "iou")


def losses(detector: TwoStageDetector, targets: list[Target], seed: int = 0) -> dict[str, Tensor]:
    images = toy_images(len(targets))
    torch.manual_seed(seed)
    return detector.train().losses(images, full_size(images), targets)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


SHARED = HeadConfig(kind="shared", stages=1, width=16, batch_per_image=32)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, TERMS),
        ({"localization": None}, TERMS - set(LOCALIZATION)),
        ({"head": SHARED}, TERMS - {"box_2", "box_3"}),
        (
            {"head": replace(SHARED, class_specific_first=True), "localization": None},
            {"rpn_cls", "rpn_box", "cls", "box_1"},
        ),
    ],
)
def test_every_trainable_parameter_learns(changes: dict[str, object], names: set[str]) -> None:
    detector = toy_detector(spread=False, **changes)
    terms = losses(detector, toy_targets())
    assert set(terms) == names
    assert all(v.isfinite() and v.dim() == 0 for v in terms.values())
    total(terms).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert detector.fpn.lateral[0].weight.grad.any()  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("images", [1, 2])
def test_images_without_objects_are_worth_training_on(images: int) -> None:
    detector = toy_detector(spread=False)
    terms = losses(detector, [Target.empty()] * images)
    assert all(v.isfinite() for v in terms.values())
    assert number(terms["cls"]) > 0 and number(terms["rpn_cls"]) > 0
    for name in ("rpn_box", "box_1", "box_2", "box_3", *LOCALIZATION):
        assert number(terms[name]) == 0
    total(terms).backward()
    assert all(p.grad is not None for p in detector.parameters())


@pytest.mark.parametrize("changes", [{}, {"head": SHARED}])
def test_the_localization_terms_teach_the_head_and_the_features_only(changes: dict[str, object]) -> None:
    detector = toy_detector(**changes)
    terms = losses(detector, toy_targets())
    learned = total({name: terms[name] for name in LOCALIZATION})
    names, parameters = zip(*detector.named_parameters(), strict=True)
    gradients = torch.autograd.grad(learned, parameters, allow_unused=True)
    reached = {name.split(".")[0] for name, g in zip(names, gradients, strict=True) if g is not None}
    assert reached == {"localization", "fpn", "backbone"}


def test_the_classifier_and_the_regressors_do_not_share_gradients() -> None:
    detector = toy_detector()
    terms = losses(detector, toy_targets())
    head = detector.head
    boxes = total({k: v for k, v in terms.items() if k.startswith("box_")})
    regressors, classifier = list(head.regressors.parameters()), list(head.classifier.parameters())  # type: ignore[union-attr]
    assert not any(torch.autograd.grad(boxes, classifier, retain_graph=True, allow_unused=True))
    assert not any(torch.autograd.grad(terms["cls"], regressors, allow_unused=True))


def test_a_loss_weight_scales_the_localization_terms() -> None:
    once = losses(toy_detector(), toy_targets())
    config = toy_config()
    assert config.localization is not None
    doubled = toy_detector(localization=replace(config.localization, loss_weight=2.0))
    twice = losses(doubled, toy_targets())
    for name in LOCALIZATION:
        torch.testing.assert_close(twice[name], 2 * once[name])
    torch.testing.assert_close(twice["cls"], once["cls"])


def count_of_learned_boxes(monkeypatch: pytest.MonkeyPatch, settings: LocalizationConfig) -> int:
    """How many boxes the localization head is trained on, when the proposals hit nothing."""
    detector = toy_detector(spread=False, localization=settings)
    seen: list[int] = []
    assert detector.localization is not None
    original = detector.localization.losses

    def spy(pooled: Tensor, boxes: Tensor, truths: Tensor) -> dict[str, Tensor]:
        assert len(pooled) == len(boxes) == len(truths) and not boxes.requires_grad
        seen.append(len(boxes))
        return original(pooled, boxes, truths)

    monkeypatch.setattr(detector.localization, "losses", spy)
    tiny = Target(torch.tensor([[1.0, 1.0, 3.0, 2.5]]), torch.tensor([0]), torch.zeros(0, 4))
    losses(detector, [tiny, Target.empty()])
    return seen[0]


@pytest.mark.parametrize(
    ("use_truth", "jitter", "expected"), [(True, 0, 1), (False, 0, 0), (False, 5, 5), (True, 3, 4)]
)
def test_truth_proposals_and_jittered_truths_are_options(
    monkeypatch: pytest.MonkeyPatch, use_truth: bool, jitter: int, expected: int
) -> None:
    settings = LocalizationConfig(width=16, use_truth_proposals=use_truth, jitter_per_truth=jitter)
    assert count_of_learned_boxes(monkeypatch, settings) == expected


def test_batch_statistics_stay_frozen_in_training() -> None:
    detector = toy_detector(spread=False).train()
    before = {k: v.clone() for k, v in detector.state_dict().items() if "running" in k}
    assert before
    losses(detector, toy_targets())
    for key, value in detector.state_dict().items():
        assert key not in before or torch.equal(value, before[key])


def test_a_few_steps_on_two_images_reduce_every_kind_of_loss() -> None:
    detector = toy_detector(spread=False)
    optimizer = torch.optim.Adam([p for p in detector.parameters() if p.requires_grad], lr=3e-3)
    first: dict[str, Tensor] = {}
    for step in range(40):
        terms = losses(detector, toy_targets(), seed=step)
        first = first or {k: v.detach() for k, v in terms.items()}
        optimizer.zero_grad()
        total(terms).backward()
        optimizer.step()
    assert number(total(terms)) < 0.6 * number(total(first))
    assert number(terms["rpn_cls"]) < 0.8 * number(first["rpn_cls"])
    assert number(terms["cls"]) < 0.6 * number(first["cls"])
    assert sum(number(terms[k]) for k in LOCALIZATION) < 0.9 * sum(number(first[k]) for k in LOCALIZATION)
