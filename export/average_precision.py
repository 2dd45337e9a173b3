"""Average precision of what runtimes answer on photos, by faster-coco-eval as in `hindsight evaluate`.

What there is to find is a COCO document in which a photo's id is its place in the list, and a category's its
label + 1. It comes from a user's COCO file, or from what the reference detected.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import OptionError

INSTALL = "install faster-coco-eval, which hindsight-detector[export] brings"
_MAX_DETECTIONS = 100
Document = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Found:
    """What a runtime detected in one photo: boxes [n, 4] xyxy in original pixels, labels [n], scores [n]."""

    boxes: NDArray[Any]
    labels: NDArray[np.int64]
    scores: NDArray[Any]


def why_unmeasured() -> str | None:
    """Why no AP can be measured on this host; None where it can."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError as error:
        return f"faster-coco-eval cannot be imported ({error}): {INSTALL}"
    return None


def annotated_objects(path: Path, names: Sequence[str], class_names: Sequence[str]) -> Document:
    """The objects that the COCO file `path` lists in each photo of `names` (file names without folder).

    Classes are told by name; objects of others are left out: no such model can find them. Raises OptionError.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        labels = {
            entry["id"]: class_names.index(entry["name"])
            for entry in given["categories"]
            if entry["name"] in class_names
        }
        by_name = {Path(entry["file_name"]).name: entry["id"] for entry in given["images"]}
        places = {by_name[name]: place for place, name in enumerate(names) if name in by_name}
        rows = [
            (places[entry["image_id"]], labels[entry["category_id"]], entry["bbox"], entry.get("iscrowd", 0))
            for entry in given["annotations"]
            if entry["image_id"] in places and entry["category_id"] in labels
        ]
        document = _document(len(names), class_names, rows)
    except OSError as error:
        raise OptionError(
            f"--annotations must be a COCO JSON file, {path} cannot be read ({error.strerror})"
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OptionError(
            f"--annotations must be a COCO JSON file with images, annotations and categories, {path} is "
            f"none ({type(error).__name__}: {error})"
        ) from error
    missing = [name for name in names if name not in by_name]
    if missing:
        raise OptionError(
            f"--annotations {path}: lists no image {missing[0]!r} ({len(missing)} of {len(names)} photos are "
            "missing)"
        )
    if all(entry["iscrowd"] for entry in document["annotations"]):
        raise OptionError(
            f"--annotations {path}: no object of a class of this model in these photos; "
            f"it knows {', '.join(class_names)}"
        )
    return document


def detected_objects(found: Sequence[Found], least: float, class_names: Sequence[str]) -> Document:
    """The detections that score `least` or more, as if they were annotated."""
    rows = [
        (place, int(answer.labels[row]), _xywh(answer.boxes[row]), 0)
        for place, answer in enumerate(found)
        for row in np.flatnonzero(answer.scores >= least)
    ]
    return _document(len(found), class_names, rows)


def average_precision(truth: Document, found: Sequence[Found]) -> float | None:
    """Mean over classes and IoU .5:.95, in 0..1, at most 100 detections a photo and class; None where there
    is nothing to find. found: one entry a photo.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    if all(entry["iscrowd"] for entry in truth["annotations"]):
        return None
    results = [
        {
            "image_id": place,
            "category_id": int(answer.labels[row]) + 1,
            "bbox": _xywh(answer.boxes[row]),
            "score": float(answer.scores[row]),
        }
        for place, answer in enumerate(found)
        for row in range(len(answer.scores))
    ]
    ground = COCO(truth)
    # An empty result list cannot be loaded; a document without annotations says the same.
    detected = ground.loadRes(results) if results else COCO({**truth, "annotations": []})
    evaluation = COCOeval_faster(ground, detected, iouType="bbox")
    evaluation.params.maxDets = [_MAX_DETECTIONS]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: NDArray[np.float64] = np.asarray(evaluation.eval["precision"])[:, :, :, 0]  # of any area
    return float(precision[precision > -1].mean())  # -1: a class without objects


def _document(
    photos: int, class_names: Sequence[str], rows: Sequence[tuple[int, int, Sequence[float], int]]
) -> Document:
    """rows: photo, label, box as x, y, width, height, crowd. Raises ValueError, TypeError for another box."""
    annotations: list[dict[str, Any]] = []
    for place, label, box, crowd in rows:
        x, y, width, height = (float(number) for number in box)
        annotations.append(
            {
                "id": len(annotations) + 1,  # 0 would mean "unmatched" to the evaluator
                "image_id": place,
                "category_id": label + 1,
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": int(crowd),
            }
        )
    return {
        "info": {},
        "images": [{"id": place} for place in range(photos)],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": name} for label, name in enumerate(class_names)],
    }


def _xywh(box: NDArray[Any]) -> list[float]:
    x1, y1, x2, y2 = (float(value) for value in box)
    return [x1, y1, x2 - x1, y2 - y1]
