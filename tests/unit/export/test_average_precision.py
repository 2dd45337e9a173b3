"""Parity's average precision is COCO's, as faster-coco-eval computes it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from export.average_precision import Found, Objects, average_precision


def scene(seed: int, images: int = 6) -> tuple[list[Objects], list[Found]]:
    """Objects of three classes, some of them crowds, and detections: moved objects, doubles, and strays."""
    rng = np.random.default_rng(seed)
    objects, found = [], []
    for _ in range(images):
        count = int(rng.integers(0, 7))
        corner, side = rng.uniform(0, 60, (count, 2)), rng.uniform(8, 40, (count, 2))
        boxes = np.concatenate([corner, corner + side], axis=1)
        labels = rng.integers(0, 3, count)
        objects.append(Objects(boxes, labels, rng.random(count) < 0.15))
        moved = np.concatenate([boxes + rng.normal(0, 2, boxes.shape), boxes + rng.normal(0, 5, boxes.shape)])
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        stray = rng.uniform(0, 50, (3, 2))
        every = np.concatenate([moved, np.concatenate([stray, stray + rng.uniform(5, 30, (3, 2))], axis=1)])
        own = np.concatenate([labels, labels, rng.integers(0, 3, 3)])
        found.append(Found(every, own, np.round(rng.random(len(every)), 1)))  # ties among the scores
    return objects, found


def reference(objects: list[Objects], found: list[Found]) -> float | None:
    from faster_coco_eval import COCO, COCOeval_faster

    def xywh(box: Any) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    annotations = [
        {
            "id": 0,
            "image_id": image,
            "category_id": int(label) + 1,
            "bbox": xywh(box),
            "area": 1.0,
            "iscrowd": int(crowd),
        }
        for image, own in enumerate(objects)
        for box, label, crowd in zip(own.boxes, own.labels, own.crowd, strict=True)
    ]
    for number, entry in enumerate(annotations, start=1):
        entry["id"] = number
    truth = COCO(
        {
            "info": {},
            "images": [{"id": i, "height": 200, "width": 200} for i in range(len(objects))],
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": str(i)} for i in range(3)],
        }
    )
    results = [
        {"image_id": image, "category_id": int(label) + 1, "bbox": xywh(box), "score": float(score)}
        for image, answer in enumerate(found)
        for box, label, score in zip(answer.boxes, answer.labels, answer.scores, strict=True)
    ]
    evaluation = COCOeval_faster(truth, truth.loadRes(results), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[..., -1].reshape(10, 101, 3, 4)[..., 0]
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


@pytest.mark.parametrize("seed", range(20))
def test_it_equals_the_evaluators(seed: int) -> None:
    objects, found = scene(seed)
    assert average_precision(objects, found) == pytest.approx(reference(objects, found), abs=1e-9)


def test_a_perfect_answer_has_one_and_none_has_nothing() -> None:
    objects, _ = scene(1)
    clear = [Objects(own.boxes, own.labels, np.zeros(len(own.labels), bool)) for own in objects]
    same = [Found(own.boxes, own.labels, np.linspace(1, 0.5, len(own.labels))) for own in clear]
    empty = [Found(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0)) for _ in clear]
    assert average_precision(clear, same) == 1
    assert average_precision(clear, empty) == 0
    nothing = [Objects(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool)) for _ in clear]
    assert average_precision(nothing, same) is None
