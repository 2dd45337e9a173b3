"""The score threshold of best F1, on cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.training.data_sets import voc_object, write_voc
from training.data import Dataset, open_dataset
from training.evaluation import ImagePredictions
from training.evaluation.operating_point import best_operating_point

OBJECTS = [
    voc_object("cell", 1, 1, 20, 20),
    voc_object("cell", 31, 1, 50, 20),
    voc_object("clot", 1, 25, 20, 44),
]


def dataset(tmp_path: Path, objects: list[str] | None = None) -> Dataset:
    return open_dataset(write_voc(tmp_path / "set", {"a": OBJECTS if objects is None else objects}))


def predictions(
    truth: Dataset, rows: list[int], scores: list[float], label: int | None = None
) -> ImagePredictions:
    sample = truth.annotations(0)
    labels = sample.labels[rows] if label is None else np.full(len(rows), label)
    column = np.array(scores, np.float32)
    return ImagePredictions(1, sample.boxes[rows], labels, column, column)


def test_the_threshold_keeps_what_is_right_and_cuts_what_is_not(tmp_path: Path) -> None:
    truth = dataset(tmp_path)
    # the last is a duplicate; no step of .05 lies between it and the last object
    point = best_operating_point(truth, [predictions(truth, [0, 1, 2, 0], [0.9, 0.8, 0.62, 0.61])])
    assert point is not None
    assert (point.score_threshold, point.precision, point.recall) == (0.05, 0.75, 1.0)
    assert point.f1 == pytest.approx(6 / 7)
    point = best_operating_point(truth, [predictions(truth, [0, 1, 2, 0], [0.9, 0.8, 0.62, 0.3])])
    assert point is not None
    assert (point.score_threshold, point.precision, point.recall, point.f1) == (0.35, 1.0, 1.0, 1.0)


def test_an_object_is_found_by_its_own_class_only(tmp_path: Path) -> None:
    truth = dataset(tmp_path)
    clot = truth.class_names.index("clot")
    point = best_operating_point(truth, [predictions(truth, [0, 1], [0.9, 0.9], label=clot)])
    assert point is not None and point.f1 == 0


def test_difficult_objects_count_neither_way(tmp_path: Path) -> None:
    objects = [voc_object("cell", 1, 1, 20, 20), voc_object("cell", 31, 1, 50, 20, difficult=1)]
    truth = dataset(tmp_path, objects)
    point = best_operating_point(truth, [predictions(truth, [0, 1], [0.9, 0.9])])
    assert point is not None and point.f1 == 1


def test_without_objects_there_is_no_best_threshold(tmp_path: Path) -> None:
    truth = dataset(tmp_path, [voc_object("cell", 1, 1, 20, 20, difficult=1)])
    assert best_operating_point(truth, []) is None
    missed = best_operating_point(dataset(tmp_path / "b"), [])
    assert missed is not None and (missed.precision, missed.recall, missed.f1) == (0, 0, 0)
