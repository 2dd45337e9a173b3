"""Mask AP against pycocotools, and how `hindsight evaluate` reports it."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from hindsight.artifact import ResizeRule
from hindsight.datasets.shapes import Shape
from hindsight.masks import paste_mask
from model import zoo
from model.checkpoint import save_checkpoint
from model.detector import TwoStageDetector
from tests.unit.training.data_sets import coco_document, voc_object, write_coco, write_voc
from tests.unit.training.test_data_shapes import masked_document
from training.data import Dataset, open_dataset
from training.evaluate_command import evaluate
from training.evaluation import ImagePredictions, evaluate_checkpoint, evaluate_predictions
from training.evaluation.average_precision import coco_ground_truth, coco_results
from training.evaluation.masks import encode_masks, segmentation_of

RULE = ResizeRule(48, 64)
app = typer.Typer()
app.command()(evaluate)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ellipses(dataset: Dataset) -> list[ImagePredictions]:
    """An ellipse in every annotated box, moved a little, with random scores."""
    rng = np.random.default_rng(0)
    y, x = (np.mgrid[:28, :28] + 0.5) / 14 - 1
    ellipse = ((x**2 + y**2) < 1).astype(np.float32)
    images = []
    for index in range(len(dataset)):
        sample = dataset.annotations(index)
        boxes = sample.boxes + rng.normal(0, 2, sample.boxes.shape).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = rng.random(len(boxes)).astype(np.float32)
        masks = encode_masks(np.stack([ellipse] * len(boxes)), boxes, dataset.image_hw(index))
        images.append(ImagePredictions(sample.image_id, boxes, sample.labels, scores, scores, masks=masks))
    return images


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools' own
def test_mask_ap_equals_pycocotools(data_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """coco_mini has polygons, and crowds as run-length codes."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    path = data_dir / "coco_mini" / "annotations" / "instances_val2017.json"
    dataset = open_dataset(path, masks=True)
    predictions = ellipses(dataset)
    found = evaluate_predictions(dataset, predictions, masks=True)
    assert capfd.readouterr() == ("", "")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(path)  # the file itself: what we make of its shapes is under test as well
        ours = coco_ground_truth(dataset)
        category = {c["name"]: c["id"] for c in truth.dataset["categories"]}
        names = {c["id"]: c["name"] for c in ours["categories"]}
        results = coco_results(dataset, predictions, masks=True)
        for result in results:
            result["category_id"] = category[names[result["category_id"]]]
        evaluation = COCOeval(truth, truth.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = [found.ap, found.ap50, found.ap75, found.ap_small, found.ap_medium, found.ap_large]
    np.testing.assert_allclose(np.array(values, np.float64), evaluation.stats[:6], atol=1e-12)
    assert 0.05 < evaluation.stats[0] < evaluate_predictions(dataset, predictions).ap < 1  # type: ignore[operator]


def test_masks_that_are_missing_are_named(tmp_path: Path) -> None:
    without = open_dataset(write_coco(tmp_path, coco_document()))
    with pytest.raises(ValueError, match="opened without them"):
        evaluate_predictions(without, [], masks=True)
    dataset = open_dataset(write_coco(tmp_path, masked_document()), masks=True)
    bare = [replace(image, masks=None) for image in ellipses(dataset)]
    with pytest.raises(ValueError, match="hold no masks"):
        evaluate_predictions(dataset, bare, masks=True)


def test_what_is_encoded_is_what_is_pasted() -> None:
    from faster_coco_eval.core import mask as reference

    box, probability = np.array([3.2, 4.7, 30.1, 20.0], np.float32), np.eye(28, dtype=np.float32) * 0.9
    (code,) = encode_masks(probability[None], box[None], (32, 40))
    np.testing.assert_array_equal(reference.decode(code), paste_mask(probability, box, (32, 40)))


def test_an_annotated_bitmap_has_the_code_of_cocos_tools() -> None:
    """What a run-length code of an annotation becomes, touching the image's edges or a hole within it."""
    from pycocotools import mask as reference

    runs = np.array([[0, 0, 4, 2], [7, 3, 9, 10], [0, 9, 12, 10], [11, 0, 12, 10]], np.float32)
    shape = Shape((), runs)
    whole = np.zeros((10, 12), np.uint8, order="F")
    bitmap, (x1, y1, x2, y2) = shape.bitmap((10, 12))
    whole[y1:y2, x1:x2] = bitmap
    assert 0 < whole.sum() < whole.size
    expected = reference.encode(whole)
    assert segmentation_of(shape, runs[0], (10, 12)) == {
        "size": expected["size"],
        "counts": expected["counts"].decode(),
    }


def mask_detector() -> TwoStageDetector:
    torch.manual_seed(0)
    config = zoo.config_of("mask_rcnn_dir", 2)
    assert config.mask is not None and config.localization is not None
    config = replace(
        config,
        backbone=replace(config.backbone, fpn_channels=16),
        rpn=replace(config.rpn, pre_nms_test=50, post_nms_test=50),
        head=replace(config.head, width=16),
        mask=replace(config.mask, convs=1, channels=16),
        localization=replace(config.localization, width=16, boxes_at_inference=20),
    )
    return TwoStageDetector(config)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("masks") / "small.safetensors"
    save_checkpoint(path, mask_detector(), {"class_names": ["cat", "dog"], "resize": asdict(RULE)})
    return path


def test_a_report_has_masks_beside_boxes(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    data = write_coco(tmp_path, masked_document())
    result = run(checkpoint, "--data", data, "--out", out)
    assert result.exit_code == 0, result.output
    assert "Masks" in result.output
    report = json.loads((out / "metrics.json").read_text())
    assert list(report["masks_by_iou_weight"]) == ["0", "0.5"] == list(report["by_iou_weight"])
    assert report["masks_by_iou_weight"]["0.5"]["objects"] == report["metrics"]["objects"] > 0
    assert report["masks_by_iou_weight"]["0.5"]["detections"] == report["metrics"]["detections"] > 0

    result = run(checkpoint, "--data", data, "--out", out, "--boxes-only")
    assert result.exit_code == 0 and "Masks" not in result.output
    assert "masks_by_iou_weight" not in json.loads((out / "metrics.json").read_text())


def test_data_without_masks(checkpoint: Path, tmp_path: Path) -> None:
    """A COCO file that lacks them is refused with the way out; a VOC folder never has any."""
    result = run(checkpoint, "--data", write_coco(tmp_path, coco_document()))
    assert result.exit_code == 2
    assert "segmentation is missing" in result.output and "--boxes-only" in result.output
    root = write_voc(tmp_path / "voc", {"a": [voc_object("cat", 3, 4, 30, 40)]}, split="test")
    result = run(checkpoint, "--data", root)
    assert result.exit_code == 0, result.output
    assert "masks are not measured: of a Pascal VOC folder, boxes only" in result.output


def test_masks_of_a_detector_that_is_right_are_measured_as_right(tmp_path: Path) -> None:
    """Its boxes are the truth and its masks are full: against shapes that are boxes, AP is 1."""
    document = masked_document()
    for entry in document["annotations"]:
        x, y, w, h = entry["bbox"]
        if not entry["iscrowd"]:
            entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    dataset = open_dataset(write_coco(tmp_path, document), masks=True)
    images = []
    for index in range(len(dataset)):
        sample = dataset.annotations(index)
        keep = ~sample.crowd
        boxes, ones = sample.boxes[keep], np.ones(int(keep.sum()), np.float32)
        masks = encode_masks(np.ones((len(boxes), 28, 28), np.float32), boxes, dataset.image_hw(index))
        images.append(ImagePredictions(sample.image_id, boxes, sample.labels[keep], ones, ones, masks=masks))
    assert evaluate_predictions(dataset, images, masks=True).ap50 == pytest.approx(1)


def test_an_evaluation_without_masks_in_the_data_has_none(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, coco_document()))
    evaluation = evaluate_checkpoint(mask_detector().eval(), dataset, RULE)
    assert evaluation.mask_metrics is None
