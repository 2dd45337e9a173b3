"""AP of resamples: on the whole set the evaluator's, on a resample that of the images drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.unit.training.data_sets import coco_document, write_coco
from tests.unit.training.test_evaluation import disturbed
from training.data import Dataset, open_dataset
from training.evaluation import ImagePredictions, evaluate_predictions
from training.experiments.bootstrap import image_weights
from training.experiments.detectors import truths_of
from training.experiments.matching import match_classes
from training.experiments.sampled_ap import ap_samples


def figures(dataset: Dataset, predictions: list[ImagePredictions]) -> list[float]:
    metrics = evaluate_predictions(dataset, predictions)
    found = (metrics.ap, metrics.ap50, metrics.ap75, metrics.ap90)
    return [np.nan if value is None else value for value in found]


def resampled(
    dataset: Dataset, predictions: list[ImagePredictions], weights: np.ndarray
) -> tuple[Dataset, list[ImagePredictions]]:
    """The set with image i there weights[i] times, each time under an id of its own."""
    rows = np.repeat(np.arange(len(dataset)), weights)
    records = [replace(dataset.records[row], image_id=number) for number, row in enumerate(rows, start=1)]
    images = [replace(predictions[row], image_id=number) for number, row in enumerate(rows, start=1)]
    return Dataset(records, dataset.class_names), images


def samples(dataset: Dataset, predictions: list[ImagePredictions], weights: np.ndarray) -> np.ndarray:
    """[1 + R, 4]"""
    matches = match_classes(truths_of(dataset), predictions, len(dataset.class_names))
    return np.stack(list(ap_samples(matches, weights).values()), axis=1)


@pytest.mark.parametrize("name", ["bccd", "coco_mini"])
def test_average_precision_is_the_evaluators(data_dir: Path, name: str) -> None:
    """coco_mini has crowds and classes without objects."""
    dataset = (
        open_dataset(data_dir / "bccd", split="test")
        if name == "bccd"
        else open_dataset(data_dir / "coco_mini" / "annotations" / "instances_val2017.json")
    )
    predictions = disturbed(dataset)
    weights = image_weights(len(dataset), 3)
    found = samples(dataset, predictions, weights)
    for row, drawn in enumerate(weights):
        np.testing.assert_allclose(
            found[row], figures(*resampled(dataset, predictions, drawn)), rtol=0, atol=1e-9
        )
    np.testing.assert_allclose(found[0], figures(dataset, predictions), rtol=0, atol=1e-9)
    assert 0.1 < found[0, 3] < found[0, 0] < 1
    assert len(np.unique(found[:, 0])) == len(weights)


def test_crowds_are_ignored_and_doubles_are_wrong(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path, coco_document()))
    one = np.array([0.9, 0.8, 0.7], np.float32)
    cat = np.array([[0, 0, 64, 48], [0, 0, 64, 47], [22, 9, 30, 17]], np.float32)
    labels = np.zeros(3, np.int64)
    predictions = [
        ImagePredictions(5, np.zeros((0, 4), np.float32), labels[:0], one[:0], one[:0]),
        ImagePredictions(9, cat, labels, one, one),
    ]
    (matches, _) = match_classes(truths_of(dataset), predictions, 2)
    assert matches.right[0].tolist() == [True, False, False]
    assert matches.wrong[0].tolist() == [False, True, False]  # the third lies in the crowd
    assert matches.objects.tolist() == [0, 1]
    np.testing.assert_allclose(
        samples(dataset, predictions, image_weights(2, 0))[0], figures(dataset, predictions), atol=1e-9
    )


def test_a_resample_without_objects_is_undefined(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"] = document["annotations"][:1]  # a dog on the first image
    dataset = open_dataset(write_coco(tmp_path, document))
    none = (np.zeros((0, 4), np.float32), np.zeros(0, np.int64), *(np.zeros(0, np.float32),) * 2)
    nothing = [ImagePredictions(5, *none), ImagePredictions(9, *none)]
    found = samples(dataset, nothing, np.array([[1, 1], [2, 0], [0, 2]]))
    assert found[:2].tolist() == [[0.0] * 4] * 2 and np.isnan(found[2]).all()


def test_equal_systems_have_equal_samples(data_dir: Path) -> None:
    dataset = open_dataset(data_dir / "bccd", split="test")
    predictions = disturbed(dataset)
    weights = image_weights(len(dataset), 5)
    # the ranking matters, not the scores: a paired difference of the same order is exactly 0
    squared = [replace(image, scores=image.scores.astype(np.float64) ** 2) for image in predictions]
    difference = samples(dataset, predictions, weights) - samples(dataset, squared, weights)
    assert (difference == 0).all()
