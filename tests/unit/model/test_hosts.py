"""Every second stage keeps the same promises, with and without the localization head behind it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model import boxes as box_ops
from model.config import HeadConfig, LocalizationConfig
from model.detector import TwoStageDetector
from model.heads.cascade import CascadeHead
from model.heads.double_head import DoubleHead
from model.structures import Target
from tests.unit.model.toys import (
    CLASSES,
    detect,
    full_size,
    number,
    toy_config,
    toy_detector,
    toy_images,
    toy_targets,
)

CASCADE = HeadConfig(kind="cascade", width=16, batch_per_image=32, share_trunk=True)
DOUBLE = HeadConfig(kind="double", width=16, batch_per_image=32, stages=1)
TSD = HeadConfig(kind="tsd", width=16, batch_per_image=32, stages=1, offset_width=16)
DECOUPLED = HeadConfig(width=16, batch_per_image=32)
HOSTS = {
    "shared": HeadConfig(kind="shared", stages=1, width=16, batch_per_image=32),
    "decoupled": DECOUPLED,
    "decoupled, one trunk": replace(DECOUPLED, stages=1, share_trunk=True),
    "decoupled, convolutional": replace(DECOUPLED, regressor="conv"),
    "decoupled, four stages": replace(DECOUPLED, stages=4),
    "cascade": CASCADE,
    "cascade, unshared": replace(CASCADE, share_trunk=False),
    "double": DOUBLE,
    "tsd": TSD,
}
LOOK = LocalizationConfig(width=16, boxes_at_inference=20)


def losses(detector: TwoStageDetector, targets: list[Target]) -> dict[str, Tensor]:
    images = toy_images(len(targets))
    torch.manual_seed(0)
    return detector.train().losses(images, full_size(images), targets)


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


@pytest.mark.parametrize("head", HOSTS.values(), ids=HOSTS)
def test_every_parameter_of_every_host_learns(head: HeadConfig) -> None:
    detector = toy_detector(spread=False, head=head)
    terms = losses(detector, toy_targets())
    assert all(v.isfinite() and v.dim() == 0 for v in terms.values())
    total(terms).backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("head", HOSTS.values(), ids=HOSTS)
def test_images_without_objects_leave_no_host_without_a_graph(head: HeadConfig) -> None:
    detector = toy_detector(spread=False, head=head)
    terms = losses(detector, [Target.empty()])
    assert all(v.isfinite() for v in terms.values())
    total(terms).backward()
    reached = {n.split(".")[0] for n, p in detector.named_parameters() if p.grad is not None}
    assert reached == {"backbone", "fpn", "rpn", "head", "localization"}


@pytest.mark.parametrize("localization", [LOOK, None], ids=["with DIR", "alone"])
@pytest.mark.parametrize("head", HOSTS.values(), ids=HOSTS)
def test_a_batch_gives_what_each_image_gives_alone(
    head: HeadConfig, localization: LocalizationConfig | None
) -> None:
    detector = toy_detector(head=head, localization=localization)
    images = toy_images(3)
    together = detect(detector, images)
    assert int(together.num_detections.sum()) > 0
    for i in range(3):
        alone = detect(detector, images[i : i + 1])
        assert alone.num_detections[0] == together.num_detections[i]
        torch.testing.assert_close(alone.boxes[0], together.boxes[i], atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-4, rtol=0)


@pytest.mark.parametrize("head", HOSTS.values(), ids=HOSTS)
def test_sources_are_the_boxes_that_the_last_regressor_read(head: HeadConfig) -> None:
    """A regressor that moves nothing leaves its source."""
    detector = toy_detector(head=head)
    for name, parameter in detector.head.named_parameters():
        last = name.startswith((f"regressors.{head.stages - 1}.", f"stages.{head.stages - 1}."))
        if (last or head.stages == 1) and parameter.shape[0] == 4:  # deltas
            torch.nn.init.zeros_(parameter)
    images = toy_images(2)
    with torch.no_grad():
        pyramid = detector.extract(images, full_size(images))
        proposals = detector.propose(pyramid, images, full_size(images))
        refined = detector.refine(detector.rois(pyramid), proposals, full_size(images))
    # a host that moves a proposal before it reads it may move it beyond the edge; final boxes end there
    sources = box_ops.clip(refined.sources, full_size(images))
    torch.testing.assert_close(sources, refined.boxes, atol=1e-3, rtol=0)


@pytest.mark.parametrize("head", HOSTS.values(), ids=HOSTS)
def test_every_host_limits_how_far_a_box_may_shrink(head: HeadConfig) -> None:
    """Asked to shrink without end, a box keeps 1 / 62.5 of its sides, in training as at inference."""
    head = replace(head, stages=min(head.stages, 2))
    images, targets = toy_images(2), toy_targets()
    sizes = full_size(images)
    for limited, kept in ((True, 16 / 1000), (False, 0.0)):
        detector = toy_detector(spread=False, head=replace(head, shrink_limited=limited))
        regressing = [
            layer
            for name, layer in detector.head.named_modules()
            if isinstance(layer, nn.Linear) and name.endswith(("deltas", "regressors.0"))
        ]
        assert len(regressing) == head.stages + (head.kind == "tsd")  # its sibling
        for layer in regressing:
            nn.init.zeros_(layer.weight)
            layer.bias.data = torch.tensor([0.0, 0.0, -1e4, -1e4])
        with torch.no_grad():
            pyramid = detector.extract(images, sizes)
            proposals, rois = detector.propose(pyramid, images, sizes), detector.rois(pyramid)
            refined = detector.refine(rois, proposals, sizes)
            learnt = detector.head.losses(rois, [proposals, proposals], targets, sizes)[1]
        for boxes, sources in (
            (refined.boxes.flatten(0, 1), refined.sources.flatten(0, 1)),
            (torch.cat(learnt.boxes), torch.cat(learnt.sources)),
        ):
            assert len(boxes) > 0
            torch.testing.assert_close(side(boxes), kept * side(sources), rtol=1e-2, atol=1e-4)


def side(boxes: Tensor) -> Tensor:
    return boxes[:, 2] - boxes[:, 0]


def test_each_stage_of_a_cascade_samples_at_its_own_iou() -> None:
    """Positives of stage k reach stage_ious[k] with the boxes that stage k - 1 left."""
    detector = toy_detector(head=CASCADE)
    seen: list[list[Tensor]] = []
    assert isinstance(detector.head, CascadeHead)
    original = detector.head.sample

    def spy(boxes: list[Tensor], targets: list[Target], positive_iou: float | None = None) -> object:
        samples = original(boxes, targets, positive_iou)
        assert positive_iou is not None
        rows = [s.labels < CLASSES for s in samples]
        for s, r in zip(samples, rows, strict=True):
            iou = box_ops.paired_quality(s.boxes[r], s.truths[r])[0]
            assert (iou >= positive_iou - 1e-5).all()
        seen.append([torch.tensor(positive_iou)])
        return samples

    detector.head.sample = spy  # type: ignore[method-assign,assignment]
    losses(detector, toy_targets())
    assert [number(s[0]) for s in seen] == pytest.approx([0.5, 0.6, 0.7])


def test_stage_weights_scale_both_losses_of_a_cascades_stage() -> None:
    plain = losses(toy_detector(head=CASCADE), toy_targets())
    weighed = losses(toy_detector(head=replace(CASCADE, stage_weights=(1.0, 0.5, 0.25))), toy_targets())
    for stage, weight in enumerate((1.0, 0.5, 0.25), start=1):
        for name in (f"cls_{stage}", f"box_{stage}"):
            torch.testing.assert_close(weighed[name], weight * plain[name])


def refined(head: HeadConfig, detector: TwoStageDetector | None = None) -> tuple[Tensor, Tensor]:
    made = detector or toy_detector(head=head, localization=None)
    made.head.config = head
    images = toy_images(2)
    with torch.no_grad():
        pyramid = made.extract(images, full_size(images))
        proposals = made.propose(pyramid, images, full_size(images))
        result = made.refine(made.rois(pyramid), proposals, full_size(images))
    return result.boxes, result.class_scores


def test_a_cascade_answers_with_any_pair_of_stages() -> None:
    """DRCNN Table X: (i, j) are the i-th regressor's boxes with the j-th classifier's scores."""
    detector = toy_detector(head=CASCADE, localization=None)
    boxes, scores = {}, {}
    for i in (1, 2, 3):
        for j in (1, 2, 3):
            boxes[i, j], scores[i, j] = refined(replace(CASCADE, test_boxes=i, test_classifier=j), detector)
    for i in (1, 2, 3):
        assert torch.equal(boxes[i, 1], boxes[i, 3]) and torch.equal(scores[1, i], scores[3, i])
    assert not torch.equal(boxes[1, 1], boxes[2, 1]) and not torch.equal(scores[1, 1], scores[1, 2])
    last_boxes, mean = refined(CASCADE, detector)
    assert torch.equal(last_boxes, boxes[3, 1])
    torch.testing.assert_close(mean, torch.stack([scores[1, j] for j in (1, 2, 3)]).mean(dim=0))


def test_averaging_logits_is_not_averaging_probabilities() -> None:
    detector = toy_detector(head=CASCADE, localization=None)
    _, probabilities = refined(CASCADE, detector)
    _, logits = refined(replace(CASCADE, average="logits"), detector)
    assert probabilities.shape == logits.shape and not torch.allclose(probabilities, logits, atol=1e-4)
    _, one = refined(replace(CASCADE, average="logits", test_classifier=2), detector)
    torch.testing.assert_close(one, refined(replace(CASCADE, test_classifier=2), detector)[1])


def test_double_head_regresses_from_a_wider_view_and_doubles_its_losses() -> None:
    detector = toy_detector(head=DOUBLE)
    assert isinstance(detector.head, DoubleHead)
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    assert detector.head._wider(box).tolist() == [[7.0, 14.0, 33.0, 66.0]]
    narrow = toy_detector(head=replace(DOUBLE, roi_scale=1.0))
    assert not torch.equal(losses(detector, toy_targets())["box_1"], losses(narrow, toy_targets())["box_1"])
    half = losses(toy_detector(head=replace(DOUBLE, loss_weight=0.5)), toy_targets())
    torch.testing.assert_close(half["box_1"] * 2, losses(toy_detector(head=DOUBLE), toy_targets())["box_1"])


def test_a_shared_trunk_is_one_set_of_weights() -> None:
    # every proposal that touches a truth teaches the regressor: the toy's are far from any
    shared = toy_detector(head=replace(HOSTS["decoupled, one trunk"], positive_iou=0.01))
    own = toy_detector(head=replace(DECOUPLED, stages=1))
    count = {n: sum(p.numel() for p in d.head.parameters()) for n, d in (("s", shared), ("o", own))}
    trunk = sum(p.numel() for n, p in own.head.named_parameters() if n.startswith("classifier.trunk"))
    assert count["o"] - count["s"] == trunk
    terms = losses(shared, toy_targets())
    gradient = torch.autograd.grad(terms["box_1"], shared.head.classifier.trunk.fc1.weight)  # type: ignore[union-attr,arg-type]
    assert gradient[0].any()


def test_what_heads_cannot_do_is_refused() -> None:
    for changes, message in (
        ({"kind": "double", "stages": 3}, "one regression stage"),
        ({"kind": "tsd"}, "one regression stage"),
        ({"bin_samples": 0}, "bin_samples must be at least 1"),
        ({"class_margin": 1.5}, r"class_margin and head.iou_margin must be 0\.\.1"),
        ({"kind": "cascade", "stages": 4}, r"1\.\.3"),
        ({"kind": "cascade", "test_boxes": 4}, r"test_boxes must be 1\.\.3"),
        ({"share_trunk": True}, "share_trunk needs head.stages = 1"),
        ({"regressor": "lstm"}, "head.regressor must be one of fc, conv"),
        ({"average": "votes"}, "head.average must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            toy_config(head=HeadConfig(**changes))  # type: ignore[arg-type]
