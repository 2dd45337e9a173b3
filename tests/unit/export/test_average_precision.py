"""Parity's average precision is COCO's: equal to pycocotools' and to figures worked out by hand."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.average_precision import (
    Document,
    Found,
    annotated_objects,
    average_precision,
    detected_objects,
)
from hindsight.errors import OptionError

NAMES = ("a", "b", "c")


def document(rows: list[dict[str, Any]], images: int) -> dict[str, Any]:
    """A COCO file as others write it: ids from anywhere, classes in another order, one the model lacks."""
    return {
        "images": [{"id": 100 + i, "file_name": f"photos/{i}.jpg"} for i in range(images)],
        "categories": [{"id": 7 - i, "name": name} for i, name in enumerate((*NAMES, "unknown"))],
        "annotations": rows,
    }


def row(image: int, label: int, box: Any, crowd: int = 0) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return {
        "image_id": 100 + image,
        "category_id": 7 - label,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "iscrowd": crowd,
    }


def read(path: Path, rows: list[dict[str, Any]], images: int) -> Document:
    path.write_text(json.dumps(document(rows, images)))
    return annotated_objects(path, [f"{i}.jpg" for i in range(images)], NAMES)


def found(boxes: Any, labels: Any, scores: Any) -> Found:
    return Found(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(scores, np.float32)
    )


def scene(seed: int, images: int = 6) -> tuple[list[dict[str, Any]], list[Found]]:
    """Objects of three classes, some of them crowds, and detections: moved objects, doubles, and strays."""
    rng = np.random.default_rng(seed)
    rows, answers = [], []
    for image in range(images):
        count = int(rng.integers(1, 7))
        corner, side = rng.uniform(0, 60, (count, 2)), rng.uniform(8, 40, (count, 2))
        boxes = np.concatenate([corner, corner + side], axis=1)
        labels = rng.integers(0, 3, count)
        pairs = zip(boxes, labels.tolist(), strict=True)
        rows += [row(image, label, box, int(rng.random() < 0.15)) for box, label in pairs]
        rows.append(row(image, 3, boxes[0]))  # of the class that the model lacks
        moved = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), boxes + rng.normal(0, 5, boxes.shape)])
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        stray = rng.uniform(0, 50, (3, 2))
        every = np.concatenate([moved, np.concatenate([stray, stray + rng.uniform(5, 30, (3, 2))], axis=1)])
        own = np.concatenate([labels, labels, rng.integers(0, 3, 3)])
        answers.append(found(every, own, np.round(rng.random(len(every)), 1)))  # ties among the scores
    return rows, answers


def reference(rows: list[dict[str, Any]], answers: list[Found]) -> float:
    """By pycocotools, from the user's file itself."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    whole = document([own | {"id": n, "area": 1.0} for n, own in enumerate(rows, start=1)], len(answers))
    results = [
        row(image, int(label), box) | {"score": float(score)}
        for image, answer in enumerate(answers)
        for box, label, score in zip(answer.boxes, answer.labels, answer.scores, strict=True)
    ]
    with redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = whole
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), iouType="bbox")
        evaluation.params.catIds = [7, 6, 5]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


@pytest.mark.parametrize("seed", range(5))
def test_it_equals_pycocotools(seed: int, tmp_path: Path) -> None:
    rows, answers = scene(seed)
    truth = read(tmp_path / "coco.json", rows, len(answers))
    assert average_precision(truth, answers) == pytest.approx(reference(rows, answers), abs=1e-6)


def test_figures_worked_out_by_hand(tmp_path: Path) -> None:
    boxes = [(0, 0, 100, 100), (200, 0, 300, 100)]
    truth = read(tmp_path / "coco.json", [row(0, 0, box) for box in boxes], 1)
    assert average_precision(truth, [found(boxes, [0, 0], [0.9, 0.8])]) == 1
    assert average_precision(truth, [found([], [], [])]) == 0
    # precision 1 up to half the recall, of 101 points
    assert average_precision(truth, [found(boxes[:1], [0], [0.9])]) == pytest.approx(51 / 101)
    assert average_precision(truth, [found(boxes[:1], [1], [0.9])]) == 0
    # IoU .82 with each: found at seven thresholds of ten
    narrow = [(x1, y1, x1 + 82, y2) for x1, y1, _, y2 in boxes]
    assert average_precision(truth, [found(narrow, [0, 0], [0.9, 0.8])]) == pytest.approx(0.7)


def test_the_references_detections_stand_for_annotations() -> None:
    boxes = [(0, 0, 100, 100), (200, 0, 300, 100), (0, 200, 50, 250)]
    own = [found(boxes, [0, 2, 1], [0.9, 0.5, 0.2]), found([], [], [])]
    truth = detected_objects(own, 0.5, NAMES)
    assert [entry["category_id"] for entry in truth["annotations"]] == [1, 3]
    assert average_precision(truth, own) == 1
    half = [found(boxes[:1], [0], [0.7]), found([], [], [])]
    assert average_precision(truth, half) == pytest.approx(0.5)
    assert average_precision(detected_objects(own, 0.95, NAMES), own) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"categories": None}, "COCO JSON file with images, annotations and categories"),
        ({"annotations": [{"image_id": 100, "category_id": 7, "bbox": [1, 2]}]}, "COCO JSON file with"),
        ({"annotations": [{"image_id": 100}]}, "category_id"),
        ({"annotations": [row(0, 3, (0, 0, 9, 9))]}, "it knows a, b, c"),
        ({"annotations": [row(0, 0, (0, 0, 9, 9), 1)]}, "no object of a class of this model"),
        ({"images": []}, "lists no image '0.jpg'"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document([row(0, 0, (0, 0, 9, 9))], 1) | change))
    with pytest.raises(OptionError, match=words):
        annotated_objects(path, ["0.jpg"], NAMES)
