"""The variants of the DIR head: what it predicts, from whose features, and how its numbers are combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import LocalizationConfig
from model.localization import DirectIouHead, LocalizationHead, build_localization
from tests.unit.model.toys import detect, full_size, toy_detector, toy_images, toy_targets

FEATURES = 2 * 3 * 3
HINDSIGHT = LocalizationConfig(width=16, boxes_at_inference=20, jitter_per_truth=0)
FORESIGHT = replace(HINDSIGHT, train_features="proposal", test_features="proposal")


def parameters(kind: str) -> int:
    head = build_localization(FEATURES, LocalizationConfig(kind=kind, width=8))
    return sum(p.numel() for p in head.parameters())


def test_the_control_has_the_parameters_of_purity_and_integrity() -> None:
    assert parameters("iou_control") == parameters("purity_integrity") == 2 * parameters("iou")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("eq5", lambda p, i: 1 / (1 / p + 1 / i - 1)),
        ("geometric", lambda p, i: (p * i) ** 0.5),
        ("arithmetic", lambda p, i: (p + i) / 2),
        ("purity", lambda p, i: p),
        ("integrity", lambda p, i: i),
    ],
)
def test_combinations_make_one_number_of_two(rule: str, expected: object) -> None:
    torch.manual_seed(0)
    head = build_localization(FEATURES, LocalizationConfig(width=8, combination=rule))
    assert isinstance(head, LocalizationHead)
    torch.nn.init.normal_(head.purity[1].weight)
    quality = head(torch.randn(30, 2, 3, 3) * 3)
    wished = expected(quality.purities, quality.integrities)  # type: ignore[operator]
    torch.testing.assert_close(quality.ious, wished)


def test_a_direct_head_knows_the_iou_alone() -> None:
    head = build_localization(FEATURES, LocalizationConfig(kind="iou", width=8))
    assert isinstance(head, DirectIouHead)
    pooled = torch.randn(2, 2, 3, 3)
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 10.0]])
    terms = head.losses(pooled, boxes, boxes)
    expected = -torch.nn.functional.logsigmoid(head.logits(pooled)).mean()  # every true IoU is 1
    torch.testing.assert_close(terms["iou"], expected, atol=1e-5, rtol=1e-5)
    assert set(terms) == {"iou"}
    quality = head(pooled)
    assert quality.purities is None and quality.integrities is None


@pytest.mark.parametrize("kind", ["iou", "iou_control"])
def test_a_detector_with_a_direct_head_ranks_by_it_and_leaves_the_rest_out(kind: str) -> None:
    detector = toy_detector(localization=replace(HINDSIGHT, kind=kind))
    output = detect(detector, toy_images(2))
    assert output.ious is not None and output.purities is None and output.integrities is None
    count = int(output.num_detections[0])
    assert count > 0
    expected = (output.class_scores[0, :count] * output.ious[0, :count]).sqrt()
    torch.testing.assert_close(output.scores[0, :count], expected)
    images = toy_images(1)
    ious, purities, _, _ = detector.rescore(
        images, full_size(images), torch.tensor([[[4.0, 4.0, 30.0, 30.0]]]), torch.tensor([1])
    )
    assert ious.shape == (1, 1) and purities is None


@pytest.mark.parametrize(
    ("settings", "reads"),
    [(HINDSIGHT, "boxes"), (FORESIGHT, "sources"), (replace(HINDSIGHT, test_features="proposal"), "sources")],
)
def test_inference_reads_the_box_or_the_proposal(
    monkeypatch: pytest.MonkeyPatch, settings: LocalizationConfig, reads: str
) -> None:
    detector = toy_detector(localization=settings)
    images = toy_images(1)
    with torch.no_grad():
        pyramid = detector.extract(images, full_size(images))
        proposals, rois = detector.propose(pyramid, images, full_size(images)), detector.rois(pyramid)
        refined = detector.refine(rois, proposals, full_size(images))
        found = detector.look_back(rois, refined)
        assert detector.localization is not None
        seen = rois.fixed(getattr(refined, reads))
        expected = detector.localization(seen).ious
    assert found.ious is not None
    torch.testing.assert_close(found.ious[0], expected)
    assert not torch.equal(refined.boxes, refined.sources)


@pytest.mark.parametrize("settings", [HINDSIGHT, FORESIGHT], ids=["hindsight", "foresight"])
def test_training_looks_where_it_should_and_always_judges_the_final_box(
    monkeypatch: pytest.MonkeyPatch, settings: LocalizationConfig
) -> None:
    from model.heads.host import Rois

    detector = toy_detector(localization=settings).train()
    pooled_lists: list[list[Tensor]] = []
    judged: list[Tensor] = []
    original_pool = Rois.ragged
    assert detector.localization is not None
    original_losses = detector.localization.losses

    def pool(self: Rois, boxes: Sequence[Tensor]) -> Tensor:
        pooled_lists.append([b.detach().clone() for b in boxes])
        return original_pool(self, boxes)

    def spy(pooled: Tensor, boxes: Tensor, truths: Tensor) -> dict[str, Tensor]:
        judged.append(boxes.clone())
        return original_losses(pooled, boxes, truths)

    monkeypatch.setattr(Rois, "ragged", pool)
    monkeypatch.setattr(detector.localization, "losses", spy)
    torch.manual_seed(0)
    images = toy_images(2)
    detector.losses(images, full_size(images), toy_targets())
    looked_at = torch.cat(pooled_lists[-1])
    assert looked_at.shape == judged[0].shape and len(looked_at)
    assert torch.equal(looked_at, judged[0]) == (settings is HINDSIGHT)


def test_foresight_cannot_judge_boxes_that_come_from_elsewhere() -> None:
    detector = toy_detector(localization=FORESIGHT)
    images = toy_images(1)
    assert not detector.can_rescore
    with pytest.raises(ValueError, match="reads boxes"):
        detector.rescore(images, full_size(images), torch.zeros(1, 1, 4), torch.tensor([1]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "area"}, "localization.kind must be one of"),
        ({"train_features": "anchor"}, "localization.train_features must be one of box, proposal"),
        ({"combination": "harmonic"}, "localization.combination must be one of"),
        ({"kind": "iou", "combination": "purity"}, "needs purity and integrity"),
        ({"train_features": "proposal"}, "jitter_per_truth must be 0"),
    ],
)
def test_variants_that_make_no_sense_are_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalizationConfig(**changes)  # type: ignore[arg-type]
