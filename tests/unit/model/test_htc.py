"""Hybrid Task Cascade: stages, flow and the semantic map, each against what it should be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from model.complexity import parameters
from model.config import HeadConfig, LocalizationConfig, MaskConfig, PoolingConfig, SemanticConfig
from model.detector import TwoStageDetector
from model.heads import cascade
from model.heads.htc import HtcHead
from model.heads.mask import of_class
from model.heads.semantic import IGNORED, semantic_loss
from model.structures import Target
from model.zoo import config_of
from tests.unit.model.test_masks import masked_targets
from tests.unit.model.toys import (
    HEIGHT,
    WIDTH,
    detect,
    full_size,
    number,
    toy_config,
    toy_detector,
    toy_images,
)

HEAD = HeadConfig(kind="htc", width=16, batch_per_image=32, share_trunk=True)
MASK = MaskConfig(convs=2, channels=8, pooling=PoolingConfig(output_size=4), train_boxes="box", flow=True)
SEMANTIC = SemanticConfig(classes=5, convs=2, channels=8)
LOOK = LocalizationConfig(width=16, boxes_at_inference=20)
HTC = {"head": HEAD, "mask": MASK, "semantic": SEMANTIC}
CASCADE_MASK = {"head": HEAD, "mask": replace(MASK, train_boxes="proposal", flow=False)}
VARIANTS = {"htc": HTC, "cascade mask": CASCADE_MASK, "no semantic branch": {**HTC, "semantic": None}}


def truth() -> list[Target]:
    """The toys' masked targets on a map: left half of class 1, right half of class 4, a strip of none."""
    semantic = torch.full((HEIGHT, WIDTH), 1, dtype=torch.uint8)
    semantic[:, WIDTH // 2 :] = 4
    semantic[:9] = IGNORED
    return [replace(target, semantic=semantic) for target in masked_targets()]


def losses(detector: TwoStageDetector, targets: list[Target]) -> dict[str, Tensor]:
    images = toy_images(len(targets))
    torch.manual_seed(0)
    return detector.train().losses(images, full_size(images), targets)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_every_parameter_learns(changes: dict[str, object]) -> None:
    detector = toy_detector(spread=False, **changes)
    terms = losses(detector, truth())
    stages = {f"{name}_{stage}" for name in ("cls", "box", "mask") for stage in (1, 2, 3)}
    assert stages < set(terms) and ("semantic" in terms) == (changes.get("semantic") is not None)
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_an_image_with_nothing_in_it_leaves_nothing_without_a_graph() -> None:
    detector = toy_detector(spread=False, **HTC)
    empty = replace(Target.empty(), semantic=torch.full((HEIGHT, WIDTH), IGNORED, dtype=torch.uint8))
    terms = losses(detector, [empty])
    assert all(number(terms[name]) == 0 for name in ("mask_1", "mask_2", "mask_3", "semantic"))
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None for p in detector.parameters())


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("localization", [LOOK, None], ids=["with DIR", "alone"])
def test_a_batch_gives_what_each_image_gives_alone(
    changes: dict[str, object], localization: LocalizationConfig | None
) -> None:
    detector = toy_detector(localization=localization, **changes)
    images = toy_images(3)
    together = detect(detector, images)
    assert int(together.num_detections.sum()) > 0 and together.masks is not None
    for i in range(3):
        alone = detect(detector, images[i : i + 1])
        assert alone.num_detections[0] == together.num_detections[i] and alone.masks is not None
        torch.testing.assert_close(alone.boxes[0], together.boxes[i], atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.scores[0], together.scores[i], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.masks[0], together.masks[i], atol=1e-4, rtol=0)


def test_masks_are_the_mean_of_heads_that_read_one_another() -> None:
    """Written out, stage by stage, on one image's kept boxes."""
    detector = toy_detector(**HTC)
    images = toy_images(1)
    output = detect(detector, images)
    count = int(output.num_detections[0])
    assert count > 3 and output.masks is not None and isinstance(detector.head, HtcHead)
    with torch.no_grad():
        rois = detector.rois(detector.extract(images, full_size(images))).with_pooling(MASK.pooling)
        pooled = rois.ragged([output.boxes[0, :count]])
        first, second, third = detector.head.masks
        one = first.features(pooled)  # type: ignore[operator]
        two = second.features(pooled + F.relu(second.incoming(one)))  # type: ignore[operator]
        three = third.features(pooled + F.relu(third.incoming(two)))  # type: ignore[operator]
        heads = ((first, one), (second, two), (third, three))
        masks = [of_class(h.predict(x), output.labels[0, :count]).sigmoid() for h, x in heads]  # type: ignore[operator]
    torch.testing.assert_close(output.masks[0, :count], sum(masks) / 3, atol=1e-5, rtol=0)
    assert not torch.allclose(masks[0], masks[2], atol=1e-3)


def test_every_roi_gets_the_semantic_maps_features_added() -> None:
    detector = toy_detector(**HTC)
    images = toy_images(2)
    boxes = torch.tensor([[[4.0, 8.0, 40.0, 50.0]], [[30.0, 10.0, 90.0, 60.0]]])
    with torch.no_grad():
        rois = detector.rois(detector.extract(images, full_size(images)))
        assert rois.context is not None
        both, plain = rois.fixed(boxes), replace(rois, context=None).fixed(boxes)
        context = replace(rois, context=None, pyramid=[rois.context], strides=[8]).fixed(boxes)
    torch.testing.assert_close(both, plain + context)
    assert context.abs().max() > 1e-3
    torch.testing.assert_close(rois.ragged(list(boxes)), both)
    assert rois.detached().context is not None and not rois.detached().context.requires_grad  # type: ignore[union-attr]


def test_semantic_features_may_be_averaged_from_a_finer_pooling() -> None:
    """As mmdetection does, there from twice the size: cells of a finer grid, averaged in squares."""
    detector = toy_detector(**{**HTC, "semantic": replace(SEMANTIC, pooled_size=28)})
    images = toy_images(2)
    boxes = torch.tensor([[[4.0, 8.0, 40.0, 50.0]], [[30.0, 10.0, 90.0, 60.0]]])
    with torch.no_grad():
        rois = detector.rois(detector.extract(images, full_size(images)))
        assert rois.context is not None
        plain = replace(rois, context=None).fixed(boxes)
        finer = PoolingConfig(output_size=28)
        context = replace(rois, context=None, pyramid=[rois.context], strides=[8], pooling=finer).fixed(boxes)
        averaged = context.reshape(2, -1, 7, 4, 7, 4).mean(dim=(3, 5))
        torch.testing.assert_close(rois.fixed(boxes), plain + averaged)
        torch.testing.assert_close(rois.ragged(list(boxes)), plain + averaged)
        assert rois.with_pooling(MASK.pooling).fixed(boxes).shape[-1] == 4


def test_interleaved_masks_learn_on_boxes_that_their_own_stage_regressed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    detector = toy_detector(**HTC)
    head = detector.head
    assert isinstance(head, HtcHead)
    calls: list[tuple[str, float]] = []
    original, decode = head.sample, cascade.decode_lists

    def sample(boxes: list[Tensor], targets: list[Target], iou: float | None = None) -> object:
        assert iou is not None
        calls.append(("sample", iou))
        return original(boxes, targets, iou)

    def regress(*arguments: object) -> object:
        calls.append(("regress", 0.0))
        return decode(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(head, "sample", sample)
    monkeypatch.setattr(cascade, "decode_lists", regress)
    losses(detector, truth())
    expected = [c for iou in (0.5, 0.6, 0.7) for c in (("sample", iou), ("regress", 0.0), ("sample", iou))]
    assert calls == expected


def test_stage_weights_scale_the_masks_losses() -> None:
    plain = losses(toy_detector(**HTC), truth())
    weighed = losses(toy_detector(**{**HTC, "head": replace(HEAD, stage_weights=(1.0, 0.5, 0.25))}), truth())
    for stage, weight in enumerate((1.0, 0.5, 0.25), start=1):
        torch.testing.assert_close(weighed[f"mask_{stage}"], weight * plain[f"mask_{stage}"])
    torch.testing.assert_close(weighed["semantic"], plain["semantic"])


def test_the_semantic_loss_counts_the_cells_that_have_a_class() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 2, 3)
    semantic = torch.full(
        (16, 20), 2, dtype=torch.uint8
    )  # the third column of cells has its centre at x = 20
    semantic[4, 12] = 0  # exactly a cell's centre
    semantic[12, 4] = IGNORED
    wished = {(0, 0): 2, (0, 1): 0, (1, 1): 2}
    terms = [-number(logits[0, :, y, x].log_softmax(dim=0)[label]) for (y, x), label in wished.items()]
    loss = semantic_loss(logits, [replace(Target.empty(), semantic=semantic)], 8)
    assert number(loss) == pytest.approx(sum(terms) / 3, rel=1e-5)


def test_truth_without_a_semantic_map_is_refused_unless_the_loss_is_off() -> None:
    with pytest.raises(ValueError, match="semantic branch learns from a map"):
        losses(toy_detector(**HTC), masked_targets())
    wrong = [replace(t, semantic=torch.full((HEIGHT, WIDTH), 5, dtype=torch.uint8)) for t in masked_targets()]
    with pytest.raises(ValueError, match="holds class 5, the branch knows 5"):
        losses(toy_detector(**HTC), wrong)
    off = toy_detector(**{**HTC, "semantic": replace(SEMANTIC, loss_weight=0.0)})
    assert number(losses(off, masked_targets())["semantic"]) == 0


def test_rescoring_reads_the_same_features_as_detection() -> None:
    detector = toy_detector(**HTC)
    images = toy_images(1)
    output = detect(detector, images)
    count = int(output.num_detections[0])
    with torch.no_grad():
        again = detector.rescore(images, full_size(images), output.boxes[:1, :count], torch.tensor([count]))
    assert output.ious is not None
    torch.testing.assert_close(again[0][0], output.ious[0, :count], atol=1e-4, rtol=0)


def size(name: str) -> int:
    return parameters(config_of(name, 80))


def test_parameters_add_up() -> None:
    """What each part adds, layer by layer, at the published widths (R50, 80 classes)."""
    ch = 256
    conv3, conv1 = ch * ch * 9 + ch, ch * ch + ch
    mask_head = 4 * conv3 + (ch * ch * 4 + ch) + (ch * 80 + 80)
    semantic = 5 * conv1 + 4 * conv3 + conv1 + (ch * 183 + 183)
    cascade = size("cascade_rcnn")
    assert size("cascade_mask_rcnn") == cascade + 3 * mask_head
    assert size("htc") == cascade + 3 * mask_head + 2 * conv1 + semantic == 80_032_949
    # DRCNN, with X101-32x4d: Mask R-CNN 62.80 M, Faster R-CNN 60.16 M
    assert size("mask_rcnn") - size("faster_rcnn") == mask_head
    assert round(mask_head / 1e6, 2) == pytest.approx(62.80 - 60.16)


def test_impossible_settings_are_refused() -> None:
    for changes, message in (
        ({"head": HEAD}, "needs a mask section"),
        ({"semantic": SEMANTIC}, "need head.kind"),
        ({"mask": MASK}, "need head.kind"),
        ({**HTC, "semantic": replace(SEMANTIC, stride=4)}, r"semantic\.stride must be one of \[8, 16, 32\]"),
        ({**HTC, "semantic": replace(SEMANTIC, pooled_size=14)}, r"must be a multiple of \(7, 4\), got 14"),
    ):
        with pytest.raises(ValueError, match=message):
            toy_config(**changes)
    with pytest.raises(ValueError, match=r"semantic\.classes must be 1\.\.255"):
        SemanticConfig(classes=256)
