"""The whole detector at toy width: what a batch, its padding and its options may and may not change."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from model import boxes as box_ops
from model.config import HeadConfig
from model.detector import TwoStageDetector
from model.heads.host import most_confident, take
from model.structures import DetectorOutput
from tests.unit.model.toys import CLASSES, detect, full_size, toy_detector, toy_images

PIXELS, SCORES = 1e-3, 1e-4
SIZES = torch.tensor([[64, 96], [50, 70], [33, 96], [64, 40]])


@pytest.fixture(scope="module")
def detector() -> TwoStageDetector:
    return toy_detector()


@pytest.fixture(scope="module")
def batch(detector: TwoStageDetector) -> DetectorOutput:
    output = detect(detector, toy_images(4), SIZES)
    assert (output.num_detections >= 5).all()  # else these tests would look at nothing
    return output


def present(output: DetectorOutput) -> dict[str, Tensor]:
    """The outputs that this detector has: all but masks."""
    found = {name: value for name, value in output._asdict().items() if value is not None}
    assert set(DetectorOutput._fields) - set(found) == {"masks"}
    return found


def rows(output: DetectorOutput) -> Iterator[tuple[int, int]]:
    return enumerate(output.num_detections.tolist())


def test_a_batch_gives_what_each_image_gives_alone(detector: TwoStageDetector, batch: DetectorOutput) -> None:
    images = toy_images(4)
    for i, count in rows(batch):
        alone = detect(detector, images[i : i + 1], SIZES[i : i + 1])
        assert int(alone.num_detections) == count
        for name, theirs in present(batch).items():
            tolerance = PIXELS if name == "boxes" else SCORES
            mine = present(alone)[name]
            torch.testing.assert_close(mine[0], theirs[i], atol=tolerance, rtol=0, msg=f"{name} of image {i}")


def test_pixels_outside_the_valid_size_do_not_matter(
    detector: TwoStageDetector, batch: DetectorOutput
) -> None:
    noisy = toy_images(4)
    for image, (height, width) in zip(noisy, SIZES.tolist(), strict=True):
        image[height:] = torch.randint(0, 256, image[height:].shape, dtype=torch.uint8)
        image[:, width:] = 255
    assert not torch.equal(noisy, toy_images(4))
    again = present(detect(detector, noisy, SIZES))
    for name, theirs in present(batch).items():
        assert torch.equal(again[name], theirs)


def test_detections_lie_inside_their_image_and_are_sorted(batch: DetectorOutput) -> None:
    for i, count in rows(batch):
        boxes, (height, width) = batch.boxes[i, :count], SIZES[i].tolist()
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width).all() and (boxes[:, 1::2] <= height).all()
        assert (box_ops.area(boxes) > 0).all()
        assert (batch.scores[i, :count].diff() <= 0).all()
        assert ((batch.labels[i, :count] >= 0) & (batch.labels[i, :count] < CLASSES)).all()


def test_rows_past_num_detections_are_zero(detector: TwoStageDetector) -> None:
    output = detect(detector, toy_images(4), SIZES, class_threshold=0.5)
    assert (output.num_detections < output.boxes.shape[1]).all()
    for name, part in present(output).items():
        for i, count in rows(output):
            assert name == "num_detections" or not part[i, count:].any()


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0])
def test_the_reported_score_is_the_fusion_of_the_reported_parts(
    detector: TwoStageDetector, weight: float
) -> None:
    output = detect(detector, toy_images(2), iou_weight=weight)
    assert output.ious is not None and output.purities is not None and output.integrities is not None
    for i, count in rows(output):
        class_scores, ious = output.class_scores[i, :count], output.ious[i, :count]
        torch.testing.assert_close(output.scores[i, :count], class_scores ** (1 - weight) * ious**weight)
        purities, integrities = output.purities[i, :count], output.integrities[i, :count]
        torch.testing.assert_close(ious, 1 / (1 / purities + 1 / integrities - 1), atol=1e-6, rtol=1e-4)


def test_thresholds_are_respected_and_only_remove(detector: TwoStageDetector) -> None:
    images = toy_images(2)
    loose, tight = (
        detect(detector, images, class_threshold=c, score_threshold=s) for c, s in [(0.05, 0.0), (0.3, 0.4)]
    )
    assert 0 < int(tight.num_detections.sum()) < int(loose.num_detections.sum())
    for i, count in rows(tight):
        assert (tight.class_scores[i, :count] > 0.3).all() and (tight.scores[i, :count] > 0.4).all()


def test_no_two_detections_of_a_class_overlap_beyond_the_threshold(detector: TwoStageDetector) -> None:
    output = detect(detector, toy_images(2), nms_threshold=0.3)
    for i, count in rows(output):
        boxes, labels = output.boxes[i, :count], output.labels[i, :count]
        same = (labels[:, None] == labels[None]) & ~torch.eye(count, dtype=torch.bool)
        assert (box_ops.pairwise_iou(boxes, boxes)[same] <= 0.3).all()


def test_a_black_image_and_an_image_without_pixels_are_ordinary(detector: TwoStageDetector) -> None:
    black = detect(detector, torch.zeros(2, 64, 96, 3, dtype=torch.uint8), torch.tensor([[64, 96], [0, 0]]))
    assert all(part.isfinite().all() for part in present(black).values())
    assert int(black.num_detections[1]) == 0


def test_any_multiple_of_32_will_do(detector: TwoStageDetector) -> None:
    for height, width in [(32, 32), (96, 32), (32, 128)]:
        image = toy_images(1)[:, :32, :32].repeat(1, height // 32, width // 32, 1)
        output = detect(detector, image)
        assert (output.boxes[..., 0::2] <= width).all() and (output.boxes[..., 1::2] <= height).all()


def test_detections_are_the_ranked_candidates(detector: TwoStageDetector) -> None:
    images = toy_images(2)
    with torch.no_grad():
        candidates = detector.candidates(images, full_size(images))
    assert candidates.boxes.shape == (2, 20, 4) and candidates.class_scores.shape == (2, 20, CLASSES)
    output = detect(detector, images, nms_threshold=1.0, iou_weight=0.0)
    for i, count in rows(output):
        for box, label, score in zip(
            output.boxes[i], output.labels[i], output.scores[i, :count], strict=False
        ):
            row = (candidates.boxes[i] == box).all(dim=1).nonzero().flatten()
            assert len(row) and bool((candidates.class_scores[i, row, label] == score).any())


def test_looking_at_fewer_boxes_keeps_the_most_confident() -> None:
    torch.manual_seed(0)
    scores = torch.rand(2, 30, CLASSES)
    picked_rows = most_confident(scores, 20)
    picked = take(scores, picked_rows)
    assert picked.shape == (2, 20, CLASSES)
    for i in range(2):
        best = scores[i].amax(dim=1).topk(20).indices
        assert sorted(picked_rows[i].tolist()) == sorted(best.tolist())
        assert torch.equal(picked[i], scores[i, picked_rows[i]])


@pytest.mark.parametrize("specific", [False, True])
def test_the_shared_head_detects_without_a_second_opinion(specific: bool) -> None:
    shared = toy_detector(
        head=HeadConfig(kind="shared", stages=1, width=16, class_specific_first=specific), localization=None
    )
    images = toy_images(3)
    output = detect(shared, images, SIZES[:3])
    assert output.ious is output.purities is output.integrities is None
    assert (output.num_detections >= 3).all()
    alone = detect(shared, images[1:2], SIZES[1:2])
    torch.testing.assert_close(alone.boxes[0], output.boxes[1], atol=PIXELS, rtol=0)
    assert torch.equal(output.scores, output.class_scores)


def test_class_specific_cascades_decode_the_best_class() -> None:
    cascade = toy_detector(head=HeadConfig(width=16, class_specific_first=True), localization=None)
    output = detect(cascade, toy_images(2))
    assert output.boxes.shape == (2, 25, 4) and (output.num_detections > 0).all()


BOXES = torch.tensor([[5.0, 5.0, 40.0, 30.0], [0.0, 0.0, 96.0, 64.0], [20.0, 20.0, 21.0, 21.0]])


@torch.no_grad()
def rescored(
    detector: TwoStageDetector, images: Tensor, boxes: Tensor, counts: list[int]
) -> tuple[Tensor, ...]:
    return detector.rescore(images, full_size(images), boxes, torch.tensor(counts))


def test_rescoring_gives_every_box_three_qualities_and_class_scores(detector: TwoStageDetector) -> None:
    ious, purities, integrities, class_scores = rescored(detector, toy_images(1), BOXES[None], [3])
    assert class_scores.shape == (1, 3, CLASSES) and (class_scores.sum(dim=-1) < 1).all()
    torch.testing.assert_close(ious, 1 / (1 / purities + 1 / integrities - 1), atol=1e-6, rtol=1e-4)
    assert (ious > 0).all() and ious.unique().numel() == 3


def test_rescored_rows_past_num_boxes_are_zero_and_neighbours_do_not_matter(
    detector: TwoStageDetector,
) -> None:
    images, boxes = toy_images(2), torch.stack([BOXES, BOXES.flip(0)])
    batch = rescored(detector, images, boxes, [1, 3])
    wild = boxes.clone()
    wild[0, 1:] = torch.tensor([-900.0, 7.0, 3.0, 1e6])
    for one, other in zip(batch, rescored(detector, images, wild, [1, 3]), strict=True):
        assert torch.equal(one, other) and not one[0, 1:].any()
    alone = rescored(detector, images[1:], boxes[1:], [3])
    for one, other in zip(batch, alone, strict=True):
        torch.testing.assert_close(one[1:], other, atol=SCORES, rtol=0)


def test_rescoring_no_boxes_gives_no_rows(detector: TwoStageDetector) -> None:
    ious, _, _, class_scores = rescored(detector, toy_images(1), torch.zeros(1, 0, 4), [0])
    assert ious.shape == (1, 0) and class_scores.shape == (1, 0, CLASSES)


def test_rescoring_the_detectors_own_boxes_repeats_its_opinion(
    detector: TwoStageDetector, batch: DetectorOutput
) -> None:
    count = int(batch.num_detections[0])
    again = rescored(detector, toy_images(4)[:1], batch.boxes[:1, :count], [count])
    assert batch.ious is not None
    torch.testing.assert_close(again[0][0], batch.ious[0, :count], atol=SCORES, rtol=0)


def test_rescoring_needs_the_localization_head() -> None:
    plain = toy_detector(localization=None, spread=False)
    with pytest.raises(ValueError, match="localization head"):
        rescored(plain, toy_images(1), BOXES[None], [3])
