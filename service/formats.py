"""A request's detections in the formats of other tools; one image's are made in hindsight/formats.py."""

from collections.abc import Mapping, Sequence
from typing import Any

from hindsight.detections import Detections
from hindsight.formats import coco_categories, labelstudio_prediction
from hindsight.manifest import Manifest

Result = Detections | dict[str, Any]
"""One image's detections, or its problem object."""


def to_coco(results: Sequence[Result], manifest: Manifest) -> dict[str, Any]:
    """A COCO document; image ids count from 0 in the order sent, category ids from 1 in the model's class
    order. An image that failed keeps its id and carries its problem.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, result in enumerate(results):
        if not isinstance(result, Detections):
            images.append({"id": image_id, "problem": result})
            continue
        height, width = result.image_hw
        images.append({"id": image_id, "width": width, "height": height})
        annotations += result.to_coco(image_id=image_id, start_id=len(annotations) + 1)
    categories = coco_categories(manifest.class_names)
    return {"images": images, "categories": categories, "annotations": annotations}


def to_labelstudio(
    detections: Detections,
    manifest: Manifest,
    *,
    from_name: str = "label",
    to_name: str = "image",
    labels: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A Label Studio prediction (hindsight.formats.labelstudio_prediction).

    labels: class name -> the project's name of it; the boxes of other classes are left out. None: as the
    model calls them.
    """
    records = detections.to_records()
    if labels is not None:
        records = [{**row, "label": labels[row["label"]]} for row in records if row["label"] in labels]
    height, width = detections.image_hw
    return labelstudio_prediction(
        records,
        width,
        height,
        model_version=f"{manifest.name} {manifest.version}",
        from_name=from_name,
        to_name=to_name,
    )
