"""Average precision against pycocotools; localization figures against cases worked out by hand."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hindsight.overlap import overlap_with, pairwise_iou
from tests.unit.training.data_sets import coco_document, voc_object, write_coco, write_voc
from training.data import Dataset, open_dataset
from training.evaluation import (
    ImagePredictions,
    Metrics,
    evaluate_predictions,
    kept_rows,
    localization_report,
)
from training.evaluation.average_precision import coco_ground_truth, coco_results
from training.evaluation.localization import (
    LocalizationRows,
    error_per_decile,
    expected_calibration_error,
    match_rows,
    pearson,
)
from training.evaluation.rescoring import BOXES_PER_TRUTH, MIN_IOU, jittered_boxes


def disturbed(dataset: Dataset, seed: int = 0) -> list[ImagePredictions]:
    """Every annotated box moved a little, with random scores, some classes wrong, some boxes twice."""
    rng = np.random.default_rng(seed)
    images = []
    for index in range(len(dataset)):
        sample = dataset.annotations(index)
        boxes = np.concatenate([sample.boxes, sample.boxes[::3]])
        boxes = boxes + rng.normal(0, 3, boxes.shape).astype(np.float32)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = np.concatenate([sample.labels, sample.labels[::3]])
        wrong = rng.random(len(labels)) < 0.1
        labels = np.where(wrong, rng.integers(len(dataset.class_names), size=len(labels)), labels)
        scores = rng.random(len(labels)).astype(np.float32)
        images.append(ImagePredictions(sample.image_id, boxes, labels, scores, scores))
    return images


def by_pycocotools(dataset: Dataset, predictions: list[ImagePredictions]) -> tuple[list[float], float]:
    """The 12 COCO numbers, and AP90."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_ground_truth(dataset)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(coco_results(dataset, predictions)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    at_90 = evaluation.eval["precision"][8, :, :, 0, -1]
    return [float(value) for value in evaluation.stats], float(at_90[at_90 > -1].mean())


@pytest.mark.parametrize("name", ["bccd", "coco_mini"])
def test_average_precision_equals_pycocotools(
    data_dir: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """coco_mini has crowds and classes without objects; bccd has all three sizes."""
    dataset = (
        open_dataset(data_dir / "bccd", split="test")
        if name == "bccd"
        else open_dataset(data_dir / "coco_mini" / "annotations" / "instances_val2017.json")
    )
    predictions = disturbed(dataset)
    metrics = evaluate_predictions(dataset, predictions)
    assert capfd.readouterr() == ("", "")  # an evaluator that prints would spoil progress bars
    expected, ap90 = by_pycocotools(dataset, predictions)
    ours = [metrics.ap, metrics.ap50, metrics.ap75, metrics.ap_small, metrics.ap_medium, metrics.ap_large]
    np.testing.assert_allclose(np.array(ours, np.float64), expected[:6], atol=1e-12)
    assert metrics.ap90 == pytest.approx(ap90, abs=1e-12)
    assert 0.1 < ap90 < expected[0] < 1


def exact(dataset: Dataset) -> list[ImagePredictions]:
    images = []
    for index in range(len(dataset)):
        sample = dataset.annotations(index)
        keep = ~sample.crowd
        ones = np.ones(int(keep.sum()), np.float32)
        images.append(ImagePredictions(sample.image_id, sample.boxes[keep], sample.labels[keep], ones, ones))
    return images


def test_perfect_predictions_score_one_and_crowds_do_not_count(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, coco_document()))
    metrics = evaluate_predictions(dataset, exact(dataset))
    assert metrics.ap == metrics.ap50 == metrics.ap90 == pytest.approx(1)
    assert metrics.objects == 2
    assert [(row.name, row.objects) for row in metrics.per_class] == [("cat", 1), ("dog", 1)]
    inside_crowd = np.array([[22, 9, 30, 17]], np.float32)
    one = np.ones(1, np.float32)
    extra = exact(dataset)
    extra[1] = ImagePredictions(
        9,
        np.concatenate([inside_crowd, extra[1].boxes]),
        np.array([0, 0]),
        np.array([1.0, 0.5], np.float32),
        np.array([1.0, 0.5], np.float32),
    )
    assert evaluate_predictions(dataset, extra).ap == pytest.approx(1)
    outside = ImagePredictions(5, np.array([[30, 30, 50, 45]], np.float32), np.array([0]), one, one)
    false_alarm = evaluate_predictions(dataset, [outside, exact(dataset)[1]])
    assert false_alarm.per_class[0].ap is not None and false_alarm.per_class[0].ap < 1


def test_nothing_found_is_zero_and_nothing_to_find_is_none(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, coco_document()))
    nothing = evaluate_predictions(dataset, [])
    assert nothing.ap == 0 and nothing.detections == 0
    assert nothing.ap_small == nothing.ap_medium == 0
    assert nothing.ap_large is None
    empty = open_dataset(write_voc(tmp_path / "empty", {"a": []}), class_names=("cell",))
    metrics = evaluate_predictions(empty, [])
    assert metrics.ap is None and metrics.figures() == {}


def test_predictions_for_an_unknown_image_are_refused(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, coco_document()))
    stranger = ImagePredictions(
        77, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), *(np.zeros(0, np.float32),) * 2
    )
    with pytest.raises(ValueError, match="image 77: not in the set"):
        evaluate_predictions(dataset, [stranger])


def test_overlaps_obey_the_papers_identity() -> None:
    box, truth = np.array([[0.0, 0, 10, 10]]), np.array([[5.0, 0, 15, 20]])
    iou, purity, integrity = overlap_with(box, truth)
    assert (iou[0], purity[0], integrity[0]) == (pytest.approx(0.2), 0.5, 0.25)
    assert iou[0] == pytest.approx(1 / (1 / purity[0] + 1 / integrity[0] - 1))  # DIR Eq. (5)
    assert pairwise_iou(box, np.array([[20.0, 20, 30, 30], [0, 0, 10, 10], [5, 5, 5, 5]])).tolist() == [
        [0, 1, 0]
    ]


def test_the_population_is_confident_rows_on_an_object_of_their_class() -> None:
    truths, labels = np.array([[0.0, 0, 10, 10], [100, 0, 110, 10]]), np.array([0, 1])
    boxes = np.array([[0.0, 0, 10, 9], [0, 0, 10, 9], [0, 0, 10, 9], [0, 0, 10, 4.9], [0, 0, 10, 5]])
    of = np.array([0, 1, 0, 0, 0])  # row 1 is of another class, row 2 unsure, row 3 too small
    scores = np.array([0.9, 0.9, 0.05, 0.9, 0.9])
    qualities = (np.arange(5) / 10, np.arange(5) / 20, np.arange(5) / 40)
    rows = match_rows(boxes, of, scores, qualities, truths, labels)
    np.testing.assert_allclose(rows.true_iou, [0.9, 0.5])
    np.testing.assert_allclose(rows.true_purity, [1, 1])
    np.testing.assert_allclose(rows.true_integrity, [0.9, 0.5])
    np.testing.assert_allclose(rows.iou, [0, 0.4])
    np.testing.assert_allclose(rows.fused, np.sqrt([0, 0.36]))
    none = match_rows(boxes, of, scores, qualities, np.zeros((0, 4)), np.zeros(0, np.int64))
    assert len(none) == 0


def test_correlation_is_pearsons_and_null_where_it_means_nothing() -> None:
    rng = np.random.default_rng(0)
    x = rng.random(50)
    y = x + rng.random(50)
    assert pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert pearson(x, -2 * x) == pytest.approx(-1)
    assert pearson(x[:2], y[:2]) is None
    assert pearson(np.ones(5), x[:5]) is None


def test_calibration_error_weighs_bins_by_their_rows() -> None:
    predicted = np.array([0.95, 0.95, 0.95, 0.15])
    true = np.array([0.90, 0.80, 0.85, 0.55])
    assert expected_calibration_error(predicted, true) == pytest.approx(0.75 * 0.1 + 0.25 * 0.4)
    assert expected_calibration_error(predicted[:2], true[:2]) is None
    assert expected_calibration_error(np.ones(3), np.ones(3)) == 0  # 1 belongs to the last bin


def test_errors_are_kept_apart_by_true_iou() -> None:
    true = np.array([0.55, 0.56, 0.57, 0.91, 1.0])
    table = error_per_decile(true + np.array([0.1, 0.1, -0.2, 0, 0]), true)
    assert [row["n"] for row in table] == [0, 0, 0, 0, 0, 3, 0, 0, 0, 2]
    assert table[5]["mean_absolute_error"] == pytest.approx(0.4 / 3)
    assert table[5]["bias"] == pytest.approx(0, abs=1e-12)
    assert table[9]["mean_absolute_error"] is None  # two rows are too few


def test_an_empty_report_is_all_null() -> None:
    report: dict[str, Any] = localization_report(LocalizationRows.concatenate([]), "none")
    assert report["n"] == 0
    assert set(report["pearson"].values()) == {None}
    assert report["calibration"]["expected_calibration_error"] is None


def test_kept_rows_leave_difficult_objects_out(tmp_path: Path) -> None:
    objects = [voc_object("cell", 1, 1, 20, 20), voc_object("cell", 31, 1, 50, 20, difficult=1)]
    dataset = open_dataset(write_voc(tmp_path / "set", {"a": objects}))
    boxes = dataset.annotations(0).boxes
    column = np.array([0.9, 0.8], np.float32)
    with_head = ImagePredictions(1, boxes, np.zeros(2, np.int64), column, column, column, column, column)
    rows = kept_rows(dataset, [with_head])
    assert rows is not None and rows.class_score.tolist() == [pytest.approx(0.9)]
    assert kept_rows(dataset, [ImagePredictions(1, boxes, np.zeros(2, np.int64), column, column)]) is None


def test_jittered_boxes_spread_their_iou_evenly_and_stay_inside() -> None:
    truths = np.array([[100, 100, 180, 220], [300, 200, 330, 215]], np.float32).repeat(100, axis=0)
    boxes = jittered_boxes(truths, (480, 640), image_id=3)
    assert boxes.shape == (len(truths) * BOXES_PER_TRUTH, 4)
    assert (boxes >= 0).all() and (boxes <= [640, 480, 640, 480]).all()
    iou = overlap_with(boxes, truths.repeat(BOXES_PER_TRUTH, axis=0)).iou
    counts, _ = np.histogram(iou, bins=9, range=(MIN_IOU, 1))
    assert counts.sum() >= 0.99 * len(boxes)
    np.testing.assert_allclose(counts, len(boxes) / 9, rtol=0.25)
    np.testing.assert_array_equal(boxes, jittered_boxes(truths, (480, 640), image_id=3))


def test_metrics_turn_into_plain_json(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, coco_document()))
    metrics: Metrics = evaluate_predictions(dataset, exact(dataset))
    assert metrics.to_json()["per_class"][1] == {"name": "dog", "objects": 1, "ap": 1.0, "ap50": 1.0}
    assert metrics.figures()["AP75"] == pytest.approx(1)
