"""Detections in the formats of other tools: COCO, YOLO text, Label Studio predictions. Boxes in original
pixels come in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from hindsight.detections import Detections
from hindsight.manifest import Manifest

_OPINION = ("score", "class_score", "iou", "purity", "integrity")

Result = Detections | dict[str, Any]
"""One image's detections, or its problem object."""


def to_coco(results: Sequence[Result], manifest: Manifest) -> dict[str, Any]:
    """A COCO document; image ids count from 0 in the order sent, category ids from 1 in the model's class
    order.

    bbox is [x, y, width, height]; the second opinion rides along as extra keys, and so do the masks of a
    model that makes some, as segmentation. An image that failed keeps
    its id and carries its problem.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, result in enumerate(results):
        if not isinstance(result, Detections):
            images.append({"id": image_id, "problem": result})
            continue
        height, width = result.image_hw
        images.append({"id": image_id, "width": width, "height": height})
        for record in result.to_records():
            x1, y1, x2, y2 = record["box"]
            box_width, box_height = round(x2 - x1, 3), round(y2 - y1, 3)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": record["label_id"] + 1,
                    "bbox": [x1, y1, box_width, box_height],
                    "area": round(box_width * box_height, 3),
                    "iscrowd": 0,
                    **{key: record[key] for key in _OPINION},
                    **({"segmentation": record["segmentation"]} if "segmentation" in record else {}),
                }
            )
    categories = [{"id": index + 1, "name": info.name} for index, info in enumerate(manifest.classes)]
    return {"images": images, "categories": categories, "annotations": annotations}


def to_yolo(detections: Detections) -> str:
    """One line a box: class id, centre x, centre y, width, height (each relative to the image), score."""
    height, width = detections.image_hw
    lines = []
    for record in detections.to_records():
        x1, y1, x2, y2 = record["box"]
        values = (
            (x1 + x2) / 2 / width,
            (y1 + y2) / 2 / height,
            (x2 - x1) / width,
            (y2 - y1) / height,
            record["score"],
        )
        lines.append(f"{record['label_id']} " + " ".join(f"{value:.6f}" for value in values) + "\n")
    return "".join(lines)


def to_labelstudio(
    detections: Detections,
    manifest: Manifest,
    *,
    from_name: str = "label",
    to_name: str = "image",
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A Label Studio prediction for a <RectangleLabels name="label" toName="image"> configuration, or other
    names; boxes in percent. The second opinion is in each region's meta: as numbers, and as the text that
    Label Studio shows beside the region.

    labels: class name -> the project's name of it; the boxes of other classes are left out. None: as the
    model calls them.
    """
    if labels is not None:
        detections = detections.select([name in labels for name in detections.names])
    height, width = detections.image_hw
    regions = []
    for index, record in enumerate(detections.to_records()):
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
                    "rectanglelabels": [record["label"] if labels is None else labels[record["label"]]],
                },
                "meta": _meta(record),
            }
        )
    mean_score = float(detections.scores.mean()) if len(detections) else 0.0
    return {"model_version": f"{manifest.name} {manifest.version}", "score": mean_score, "result": regions}


def _meta(record: dict[str, Any]) -> dict[str, Any]:
    numbers = {key: record[key] for key in ("class_score", "iou", "purity", "integrity")}
    said = {"purity": record["purity"], "integrity": record["integrity"], "IoU": record["iou"]}
    text = ", ".join(f"{name} {value:.2f}" for name, value in said.items() if value is not None)
    return {**numbers, "text": [text]} if text else numbers
