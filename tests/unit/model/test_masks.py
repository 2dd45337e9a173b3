"""Masks: what is wished for, what is lost, and that only kept boxes get one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.config import LocalizationConfig, MaskConfig, PoolingConfig
from model.detector import TwoStageDetector
from model.heads.mask import mask_bce, of_class
from model.masks import InstanceMasks
from model.structures import DetectorOutput, Target
from tests.unit.model.toys import CLASSES, detect, full_size, number, toy_detector, toy_images, toy_targets

MASK = MaskConfig(convs=2, channels=8, pooling=PoolingConfig(output_size=4))
LOOK = LocalizationConfig(width=16, boxes_at_inference=20)


def random_masks(frames: list[list[int]], seed: int = 0) -> InstanceMasks:
    generator = torch.Generator().manual_seed(seed)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in frames]
    pixels = torch.randint(0, 2, (sum(areas),), generator=generator, dtype=torch.uint8)
    return InstanceMasks(pixels, torch.tensor(frames))


def masked_targets() -> list[Target]:
    """The toys', the first object a triangle, the second whole."""
    targets = toy_targets()
    triangle = torch.ones(32, 28, dtype=torch.uint8).tril()
    pixels = torch.cat([triangle.flatten(), torch.ones(40 * 40, dtype=torch.uint8)])
    frames = torch.tensor([[6, 8, 34, 40], [50, 20, 90, 60]])
    return [replace(targets[0], masks=InstanceMasks(pixels, frames)), *targets[1:]]


def on_canvas(masks: InstanceMasks, index: int, side: int) -> Tensor:
    """One bitmap on a canvas from -side to 2 * side."""
    start = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in masks.frames[:index].tolist())
    x1, y1, x2, y2 = masks.frames[index].tolist()
    canvas = torch.zeros(3 * side, 3 * side)
    bitmap = masks.pixels[start : start + (x2 - x1) * (y2 - y1)].reshape(y2 - y1, x2 - x1)
    canvas[side + y1 : side + y2, side + x1 : side + x2] = bitmap.float()
    return canvas


def test_a_cell_is_wished_for_where_the_object_covers_half_of_it() -> None:
    """Boxes of whole pixels, cells of 3 x 2 of them: count, cell by cell."""
    side, size, cell_h, cell_w = 40, 5, 3, 2
    masks = random_masks([[3, 4, 21, 30], [0, 0, 40, 40], [10, 10, 11, 12]])
    corners = torch.tensor([[2, 3], [0, 0], [-4, 20], [30, 35], [15, 1], [9, 9]])
    objects = torch.tensor([0, 1, 0, 1, 0, 2])
    extent = torch.tensor([size * cell_w, size * cell_h])
    found = masks.crop(torch.cat([corners, corners + extent], dim=1).float(), objects, size)
    assert found.shape == (6, size, size)
    for row, index in enumerate(objects.tolist()):
        canvas = on_canvas(masks, index, side)
        x, y = (corners[row] + side).tolist()
        for i in range(size):
            for j in range(size):
                block = canvas[y + i * cell_h : y + (i + 1) * cell_h, x + j * cell_w : x + (j + 1) * cell_w]
                assert found[row, i, j] == float(block.mean() >= 0.5), (row, i, j)
    assert 0.2 < found.mean() < 0.8


def test_cropping_copes_with_nothing() -> None:
    masks = random_masks([[3, 4, 9, 9]])
    assert masks.crop(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 7).shape == (0, 7, 7)
    assert not masks.crop(torch.tensor([[5.0, 5.0, 5.0, 5.0]]), torch.tensor([0]), 7).any()
    assert InstanceMasks.empty().crop(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), 7).shape[0] == 0


def test_the_loss_is_the_mean_over_the_cells_of_each_rows_own_class() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 4, 2, 2), torch.tensor([2, 0, 3])
    wished = (torch.rand(3, 2, 2) < 0.5).float()
    terms = []
    for n in range(3):
        for i in range(2):
            for j in range(2):
                p = 1 / (1 + math.exp(-number(logits[n, int(labels[n]), i, j])))
                terms.append(-math.log(p if wished[n, i, j] else 1 - p))
    assert number(mask_bce(logits, labels, wished)) == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def losses(detector: TwoStageDetector, targets: list[Target]) -> dict[str, Tensor]:
    images = toy_images(len(targets))
    torch.manual_seed(0)
    return detector.train().losses(images, full_size(images), targets)


@pytest.mark.parametrize("train_boxes", ["proposal", "box"])
def test_masks_teach_their_head_and_the_features_only(train_boxes: str) -> None:
    detector = toy_detector(mask=replace(MASK, train_boxes=train_boxes))
    terms = losses(detector, masked_targets())
    names, parameters = zip(*detector.named_parameters(), strict=True)
    gradients = torch.autograd.grad(terms["mask"], parameters, allow_unused=True)
    reached = {
        name.split(".")[0] for name, g in zip(names, gradients, strict=True) if g is not None and g.any()
    }
    assert reached == {"mask", "fpn", "backbone"}
    taught = {n for n, g in zip(names, gradients, strict=True) if n.startswith("mask.") and g is not None}
    assert len(taught) == 2 * (MASK.convs + 2)


def test_images_without_objects_give_a_zero_that_keeps_its_graph() -> None:
    detector = toy_detector(spread=False, mask=MASK)
    term = losses(detector, [Target.empty()])["mask"]
    assert number(term) == 0
    term.backward()
    assert detector.mask is not None and detector.mask.logits.weight.grad is not None


def test_truth_without_masks_is_refused() -> None:
    with pytest.raises(ValueError, match="learns masks, but its ground truth has boxes only"):
        losses(toy_detector(mask=MASK), toy_targets())


@pytest.fixture(scope="module")
def detector() -> TwoStageDetector:
    return toy_detector(mask=MASK, localization=LOOK)


@pytest.fixture(scope="module")
def batch(detector: TwoStageDetector) -> DetectorOutput:
    output = detect(detector, toy_images(3), class_threshold=0.6)
    assert (output.num_detections > 0).all() and (output.num_detections < 25).all()
    return output


def test_masks_are_what_the_head_says_of_the_kept_boxes(
    detector: TwoStageDetector, batch: DetectorOutput
) -> None:
    assert batch.masks is not None and batch.masks.shape == (3, 25, 8, 8) and detector.mask is not None
    images = toy_images(3)
    with torch.no_grad():
        rois = detector.rois(detector.extract(images, full_size(images))).with_pooling(MASK.pooling)
        for i, count in enumerate(batch.num_detections.tolist()):
            lists = [batch.boxes[i, :count] if j == i else torch.zeros(0, 4) for j in range(3)]
            logits = detector.mask(rois.ragged(lists))
            assert logits.shape == (count, CLASSES, 8, 8)
            expected = of_class(logits, batch.labels[i, :count]).sigmoid()
            torch.testing.assert_close(batch.masks[i, :count], expected, atol=1e-5, rtol=0)
            assert not batch.masks[i, count:].any()


def test_masks_change_nothing_else(detector: TwoStageDetector, batch: DetectorOutput) -> None:
    plain = toy_detector(localization=LOOK)
    plain.load_state_dict({k: v for k, v in detector.state_dict().items() if not k.startswith("mask.")})
    alike = detect(plain, toy_images(3), class_threshold=0.6)
    assert alike.masks is None
    for name, value in alike._asdict().items():
        assert value is None or torch.equal(value, getattr(batch, name))


def test_a_batch_gives_the_masks_that_each_image_gives_alone(
    detector: TwoStageDetector, batch: DetectorOutput
) -> None:
    for i in range(3):
        alone = detect(detector, toy_images(3)[i : i + 1], class_threshold=0.6)
        assert alone.masks is not None and batch.masks is not None
        torch.testing.assert_close(alone.masks[0], batch.masks[i], atol=1e-4, rtol=0)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mask\.train_boxes must be one of proposal, box"):
        MaskConfig(train_boxes="boxes")
    with pytest.raises(ValueError, match=r"mask\.convs must be 0 or more"):
        MaskConfig(convs=-1)
