"""Records of boxes in the formats of other tools: COCO, YOLO text, Label Studio predictions.

A record is a row of `Detections.to_records()`, so its box is x1, y1, x2, y2 in original pixels.
`Detections.to_coco()` and its kin, the server's ?format= and the files of `hindsight detect` are all written
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hindsight.masks import mask_area

__all__ = ["Record", "coco_annotation", "coco_categories", "labelstudio_prediction", "yolo_lines"]

Record = dict[str, Any]

_OPINION = ("score", "class_score", "iou", "purity", "integrity")


def coco_categories(class_names: Sequence[str]) -> list[dict[str, Any]]:
    """A COCO document's `categories`: ids count from 1 in the model's class order."""
    return [{"id": index + 1, "name": name} for index, name in enumerate(class_names)]


def coco_annotation(record: Record) -> dict[str, Any]:
    """An entry of a COCO document's `annotations`, less `id` and `image_id`.

    bbox is [x, y, width, height]; category_id is the label's place in the class order plus 1. The second
    opinion rides along as extra keys, and so does the mask of a model that makes some, as segmentation; area
    is then that of the mask, in pixels, as COCO has it.
    """
    x1, y1, x2, y2 = record["box"]
    width, height = round(x2 - x1, 3), round(y2 - y1, 3)
    masked = "segmentation" in record
    return {
        "category_id": record["label_id"] + 1,
        "bbox": [x1, y1, width, height],
        "area": mask_area(record["segmentation"]) if masked else round(width * height, 3),
        "iscrowd": 0,
        **{key: record[key] for key in _OPINION},
        **({"segmentation": record["segmentation"]} if masked else {}),
    }


def yolo_lines(records: Sequence[Record], width: int, height: int, *, scores: bool = True) -> str:
    """One line a box: class id, centre x, centre y, width, height (each relative to the image), and the
    score unless `scores` is False.
    """
    lines = []
    for record in records:
        x1, y1, x2, y2 = record["box"]
        values = [
            (x1 + x2) / 2 / width,
            (y1 + y2) / 2 / height,
            (x2 - x1) / width,
            (y2 - y1) / height,
        ]
        if scores:
            values.append(record["score"])
        lines.append(f"{record['label_id']} " + " ".join(f"{value:.6f}" for value in values) + "\n")
    return "".join(lines)


def labelstudio_prediction(
    records: Sequence[Record],
    width: int,
    height: int,
    *,
    model_version: str,
    from_name: str = "label",
    to_name: str = "image",
) -> dict[str, Any]:
    """A Label Studio prediction for a <RectangleLabels name="label" toName="image"> configuration, or other
    names; boxes in percent. The second opinion is in each region's meta: as numbers, and as the text that
    Label Studio shows beside the region. Its score is the boxes' mean.
    """
    regions = []
    for index, record in enumerate(records):
        x1, y1, x2, y2 = record["box"]
        regions.append(
            {
                "id": f"box-{index}",
                "from_name": from_name,
                "to_name": to_name,
                "type": "rectanglelabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": record["score"],
                "value": {
                    "x": 100 * x1 / width,
                    "y": 100 * y1 / height,
                    "width": 100 * (x2 - x1) / width,
                    "height": 100 * (y2 - y1) / height,
                    "rotation": 0,
                    "rectanglelabels": [record["label"]],
                },
                "meta": _meta(record),
            }
        )
    mean_score = sum(record["score"] for record in records) / max(1, len(records))
    return {"model_version": model_version, "score": mean_score, "result": regions}


def _meta(record: Record) -> dict[str, Any]:
    numbers = {key: record[key] for key in ("class_score", "iou", "purity", "integrity")}
    said = {"purity": record["purity"], "integrity": record["integrity"], "IoU": record["iou"]}
    text = ", ".join(f"{name} {value:.2f}" for name, value in said.items() if value is not None)
    return {**numbers, "text": [text]} if text else numbers
