"""How good an answer on a mosaic is, and what predicted integrity knows of objects that a tile cuts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from benchmarks.tiling_mosaics import SIDE, Mosaic
from hindsight.detections import Detections
from hindsight.overlap import overlap_with, pairwise_iou

__all__ = ["averages", "cut_objects", "hits", "integrity_report", "operating_point"]

_ALL = 100_000  # detections an image: a mosaic holds more than COCO's 100
_MIN_IOU = 0.5


def averages(mosaics: Sequence[Mosaic], answers: Sequence[Detections]) -> dict[str, float]:
    """AP, AP50, AP75 as COCO defines them, but of all detections; and the recall at IoU .5 that all reach."""
    truth, results = _coco(mosaics, answers)
    ground = COCO(truth)
    detected = ground.loadRes(results) if results else COCO({**truth, "annotations": []})
    evaluation = COCOeval_faster(ground, detected, iouType="bbox")
    evaluation.params.maxDets = [1, 100, _ALL]
    evaluation.evaluate()
    evaluation.accumulate()
    classes = len(truth["categories"])
    precision = np.asarray(evaluation.eval["precision"]).reshape(10, 101, classes, 4, 3)[..., 0, 2]
    recall = np.asarray(evaluation.eval["recall"]).reshape(10, classes, 4, 3)[..., 0, 2]

    def mean(values: NDArray[Any]) -> float:
        return round(float(values[values > -1].mean()), 4)

    return {
        "AP": mean(precision),
        "AP50": mean(precision[0]),
        "AP75": mean(precision[5]),
        "recall": mean(recall[0]),
    }


def operating_point(mosaics: Sequence[Mosaic], answers: Sequence[Detections]) -> dict[str, float]:
    """Over all classes together, each object found once, at IoU .5: recall, precision and F1. leftovers: a
    mosaic's mean number of wrong boxes that lie mostly on an object of their class: seen twice, or in part.
    """
    right = shown = objects = leftovers = 0
    for mosaic, found in zip(mosaics, answers, strict=True):
        hit, counted = hits(mosaic, found)
        same = found.labels[:, None] == mosaic.labels[None]
        on = _purities(found.boxes, mosaic.boxes) * same
        right += int(hit.sum())
        shown += int(counted.sum())
        objects += int((~mosaic.clipped).sum())
        leftovers += int((counted & ~hit & (on.max(axis=1, initial=0) > _MIN_IOU)).sum())
    return {
        "recall": round(right / objects, 4),
        "precision": round(right / max(shown, 1), 4),
        "f1": round(2 * right / (shown + objects), 4),
        "leftovers": round(leftovers / len(mosaics), 2),
    }


def hits(mosaic: Mosaic, found: Detections) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections are right, and which count at all: neither is what lies on a clipped object."""
    boxes, labels = mosaic.boxes[~mosaic.clipped], mosaic.labels[~mosaic.clipped]
    iou = pairwise_iou(found.boxes, boxes) * (found.labels[:, None] == labels[None])
    free = np.ones(len(boxes), np.bool_)
    hit = np.zeros(len(found), np.bool_)
    for row in np.argsort(-found.scores, kind="stable"):
        candidates = np.where(free, iou[row], 0.0)
        if candidates.max(initial=0) >= _MIN_IOU:
            free[candidates.argmax()] = False
            hit[row] = True
    ignored = _purities(found.boxes, mosaic.boxes[mosaic.clipped]).max(axis=1, initial=0) > _MIN_IOU
    return hit, hit | ~ignored


def cut_objects(mosaic: Mosaic, window: NDArray[np.int64], found: Detections) -> list[dict[str, float]]:
    """Each object of which a tile shows something and has a box: what the tile said of that box, and the
    truth: how much of the whole object it holds. found: in pixels of the tile.
    """
    shift = np.tile(window[:2], 2)
    inside = np.clip(mosaic.boxes, shift, np.tile(window[2:], 2))
    visible = (inside[:, 2:] > inside[:, :2]).all(axis=1) & ~mosaic.clipped
    boxes = found.boxes + shift
    rows = []
    assert found.integrities is not None and found.ious is not None
    for place in np.flatnonzero(visible):
        iou = pairwise_iou(boxes, inside[place][None])[:, 0] * (found.labels == mosaic.labels[place])
        if iou.max(initial=0) < _MIN_IOU:
            continue
        row = int(iou.argmax())
        whole = overlap_with(boxes[row][None], mosaic.boxes[place][None])
        rows.append(
            {
                "cut": float((inside[place] != mosaic.boxes[place]).any()),
                "score": float(found.scores[row]),
                "iou": float(found.ious[row]),
                "integrity": float(found.integrities[row]),
                "true_iou": float(whole.iou[0]),
                "true_integrity": float(whole.integrity[0]),
            }
        )
    return rows


def integrity_report(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Mean predicted and true values of boxes on whole and on cut objects. told_apart: how often a whole
    object's box has the higher value of two (.5: by chance).
    """
    cut = np.array([row["cut"] for row in rows], np.bool_)

    def column(name: str) -> NDArray[np.float64]:
        return np.array([row[name] for row in rows])

    def means(which: NDArray[np.bool_]) -> dict[str, float]:
        names = ("score", "iou", "integrity", "true_iou", "true_integrity")
        return {"objects": int(which.sum())} | {
            name: round(float(column(name)[which].mean()), 4) for name in names
        }

    def told_apart(name: str) -> float:
        whole, part = column(name)[~cut], np.sort(column(name)[cut])
        below = np.searchsorted(part, whole, "left") + np.searchsorted(part, whole, "right")
        return round(float(below.mean() / 2 / len(part)), 4)

    return {
        "whole": means(~cut),
        "cut": means(cut),
        "told_apart": {name: told_apart(name) for name in ("score", "iou", "integrity")},
    }


def _purities(boxes: NDArray[np.float32], truths: NDArray[np.float32]) -> NDArray[np.float64]:
    """[n, g]: how much of each box lies on each object."""
    sides = np.minimum(boxes[:, None, 2:], truths[None, :, 2:]) - np.maximum(
        boxes[:, None, :2], truths[None, :, :2]
    )
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)[:, None].astype(np.float64)
    shared = np.prod(np.maximum(sides, 0), axis=2).astype(np.float64)
    return np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0)


def _coco(
    mosaics: Sequence[Mosaic], answers: Sequence[Detections]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The truth, clipped objects as crowds, and the answers."""
    images, annotations, results = [], [], []
    for number, (mosaic, found) in enumerate(zip(mosaics, answers, strict=True), 1):
        images.append({"id": number, "file_name": str(number), "height": SIDE, "width": SIDE})
        for box, label, clipped in zip(mosaic.boxes, mosaic.labels, mosaic.clipped, strict=True):
            left, top, width, height = _xywh(box)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": int(clipped),
                }
            )
        results += [
            {"image_id": number, "category_id": int(label) + 1, "bbox": _xywh(box), "score": float(score)}
            for box, label, score in zip(found.boxes, found.labels, found.scores, strict=True)
        ]
    names = answers[0].class_names
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(names)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}, results


def _xywh(box: NDArray[np.float32]) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]
