"""Average precision as COCO defines it: IoU .5:.95, 101 recall points, at most 100 detections an image.

Crowd regions (COCO `iscrowd`, VOC `difficult`) count neither for nor against. The matching and the curves are
faster-coco-eval's; a test holds them equal to pycocotools'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.dataset import Dataset
from training.evaluation.masks import segmentation_of
from training.evaluation.predictions import ImagePredictions

MAX_DETECTIONS = 100
_AREAS = ("all", "small", "medium", "large")  # of the annotated area: up to 32^2, to 96^2, above
_FIRST_IOU, _IOU_STEP = 0.5, 0.05


@dataclass(frozen=True)
class ClassMetrics:
    """One class; None where it has no object to find."""

    name: str
    objects: int
    ap: float | None
    ap50: float | None


@dataclass(frozen=True)
class Metrics:
    """Average precisions in 0..1; None where there is no object to find (of that size)."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap90: float | None
    ap60: float | None
    ap70: float | None
    ap80: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    per_class: tuple[ClassMetrics, ...]
    images: int
    objects: int
    detections: int

    def figures(self) -> dict[str, float]:
        """The defined averages under their usual names: what a training log shows."""
        named = {
            "AP": self.ap,
            "AP50": self.ap50,
            "AP75": self.ap75,
            "AP90": self.ap90,
            "APs": self.ap_small,
            "APm": self.ap_medium,
            "APl": self.ap_large,
        }
        return {name: value for name, value in named.items() if value is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, per_class as a list."""
        return {**asdict(self), "per_class": [asdict(row) for row in self.per_class]}


def evaluate_predictions(
    dataset: Dataset, predictions: Sequence[ImagePredictions], *, masks: bool = False
) -> Metrics:
    """Metrics of `predictions` on all images of `dataset`; an image without predictions counts as nothing
    found. Overlaps are those of boxes or, with `masks`, of masks, which both sides must have.

    Raises ValueError for predictions on an image that the set lacks, two on the same one, or lacking masks.
    """
    truth = coco_ground_truth(dataset, masks=masks)
    results = coco_results(dataset, predictions, masks=masks)
    precision = _precision(truth, results, "segm" if masks else "bbox")
    objects = [0] * len(dataset.class_names)
    for entry in truth["annotations"]:
        objects[entry["category_id"] - 1] += not entry["iscrowd"]
    return Metrics(
        ap=_mean(precision[:, :, :, 0]),
        ap50=_mean(precision[_at(0.5), :, :, 0]),
        ap75=_mean(precision[_at(0.75), :, :, 0]),
        ap90=_mean(precision[_at(0.9), :, :, 0]),
        ap60=_mean(precision[_at(0.6), :, :, 0]),
        ap70=_mean(precision[_at(0.7), :, :, 0]),
        ap80=_mean(precision[_at(0.8), :, :, 0]),
        ap_small=_mean(precision[:, :, :, 1]),
        ap_medium=_mean(precision[:, :, :, 2]),
        ap_large=_mean(precision[:, :, :, 3]),
        per_class=tuple(
            ClassMetrics(
                name, count, _mean(precision[:, :, index, 0]), _mean(precision[_at(0.5), :, index, 0])
            )
            for index, (name, count) in enumerate(zip(dataset.class_names, objects, strict=True))
        ),
        images=len(dataset),
        objects=sum(objects),
        detections=len(results),
    )


def coco_ground_truth(dataset: Dataset, *, masks: bool = False) -> dict[str, Any]:
    """The set as a COCO document; category id = label + 1, annotation ids from 1: 0 means "unmatched".

    Raises ValueError if `masks` are wanted of a set that was opened without.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(dataset)):
        sample = dataset.annotations(index)
        height, width = dataset.image_hw(index)
        images.append(
            {"id": sample.image_id, "file_name": sample.path.name, "height": height, "width": width}
        )
        if masks and sample.shapes is None:
            raise ValueError("masks are to be measured on a set that was opened without them")
        shapes = sample.shapes if masks and sample.shapes is not None else [None] * len(sample.boxes)
        rows = zip(sample.boxes, sample.labels, sample.crowd, sample.area, shapes, strict=True)
        for box, label, crowd, area, shape in rows:
            entry = {
                "id": len(annotations) + 1,
                "image_id": sample.image_id,
                "category_id": int(label) + 1,
                "bbox": _xywh(box),
                "area": float(area),
                "iscrowd": int(crowd),
            }
            if shape is not None:
                entry["segmentation"] = segmentation_of(shape, box, (height, width))
            annotations.append(entry)
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(dataset.class_names)]
    return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def coco_results(
    dataset: Dataset, predictions: Sequence[ImagePredictions], *, masks: bool = False
) -> list[dict[str, Any]]:
    """The predictions as a COCO result list. Raises ValueError as evaluate_predictions says."""
    known = {dataset.annotations(index).image_id for index in range(len(dataset))}
    results: list[dict[str, Any]] = []
    for image in predictions:
        if image.image_id not in known:
            raise ValueError(f"predictions for image {image.image_id}: not in the set, or given twice")
        known.discard(image.image_id)
        if masks and image.masks is None:
            raise ValueError(f"predictions for image {image.image_id} hold no masks")
        segmentations = image.masks if masks and image.masks is not None else [None] * len(image)
        rows = zip(image.boxes, image.labels, image.scores, segmentations, strict=True)
        for box, label, score, segmentation in rows:
            entry: dict[str, Any] = {
                "image_id": image.image_id,
                "category_id": int(label) + 1,
                "score": float(score),
            }
            # either: of a result with both, its area would be its box's
            results.append(
                entry | ({"bbox": _xywh(box)} if segmentation is None else {"segmentation": segmentation})
            )
    return results


def _precision(truth: dict[str, Any], results: list[dict[str, Any]], overlap: str) -> NDArray[np.float64]:
    """[10 IoUs, 101 recalls, classes, 4 areas] at MAX_DETECTIONS; -1 where there is nothing to find.

    `overlap`: "bbox" or "segm".
    """
    from faster_coco_eval import COCO, COCOeval_faster  # slow to import, and only evaluation needs it

    ground = COCO(truth)
    # An empty result list cannot be loaded; a document without annotations says the same.
    detected = ground.loadRes(results) if results else COCO({**truth, "annotations": []})
    evaluation = COCOeval_faster(ground, detected, iouType=overlap)
    evaluation.params.maxDets = [1, 10, MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: NDArray[np.float64] = np.asarray(evaluation.eval["precision"])[..., -1]
    return precision.reshape(10, 101, len(truth["categories"]), len(_AREAS))


def _at(iou: float) -> int:
    return round((iou - _FIRST_IOU) / _IOU_STEP)


def _mean(precision: NDArray[np.float64]) -> float | None:
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


def _xywh(box: NDArray[np.float32]) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]
