"""The rows of a batch of model outputs -> what one image is answered. Nowhere else does that happen.

B: batch. K: the model's max_detections.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.detections import Detections, Rescored
from hindsight.errors import NonFiniteOutput, RuntimeFailure
from hindsight.manifest import Manifest
from hindsight.options import DetectOptions
from hindsight.preprocess import Placed, boxes_to_original

__all__ = ["check_finite", "split_detections", "split_rescored"]


def split_detections(
    outputs: Mapping[str, NDArray[Any]],
    index: int,
    lb: Placed,
    manifest: Manifest,
    options: DetectOptions,
) -> Detections:
    """Image `index` of `outputs` (model.onnx's, DESIGN of the artifact) in original pixels, best score first.

    Keeps options.classes and the best options.max_detections; the thresholds were applied inside the model.
    Raises RuntimeFailure where the outputs are not what the manifest promises; NonFiniteOutput, one of its
    kind, where they hold NaN or infinity.
    """
    count = int(outputs["num_detections"][index])
    capacity = outputs["scores"].shape[1]
    if not 0 <= count <= capacity:
        raise RuntimeFailure(f"the model reports {count} detections; expected 0..{capacity}")

    def rows(name: str) -> NDArray[Any]:
        return outputs[name][index, :count]

    def judged(name: str) -> NDArray[np.float32] | None:
        return _finite(name, rows(name)) if name in outputs else None

    labels = rows("labels").astype(np.int64)
    if count and not (labels.min() >= 0 and labels.max() < len(manifest.classes)):
        raise RuntimeFailure(
            f"the model reports label {labels.max()}; the manifest lists {len(manifest.classes)} classes"
        )
    found = Detections(
        boxes_to_original(_finite("boxes", rows("boxes")), lb),
        labels,
        _finite("scores", rows("scores")),
        _finite("class_scores", rows("class_scores")),
        judged("ious"),
        judged("purities"),
        judged("integrities"),
        manifest.class_names,
        lb.original_hw,
        judged("masks"),
    )
    order = np.argsort(-found.scores, kind="stable")
    if options.classes is not None:
        wanted = [manifest.class_names.index(name) for name in options.classes]
        order = order[np.isin(labels[order], wanted)]
    return found.select(order[: options.max_detections])


def split_rescored(
    outputs: Mapping[str, NDArray[Any]], index: int, count: int, class_names: tuple[str, ...]
) -> Rescored:
    """The first `count` boxes of image `index` of `outputs` (rescore.onnx's). Raises NonFiniteOutput."""

    def rows(name: str) -> NDArray[np.float32]:
        return _finite(name, outputs[name][index, :count])

    def judged(name: str) -> NDArray[np.float32] | None:
        return rows(name) if name in outputs else None

    return Rescored(
        rows("ious"), judged("purities"), judged("integrities"), rows("class_scores"), class_names
    )


def check_finite(outputs: Mapping[str, NDArray[Any]], index: int) -> None:
    """Of the outputs as they are, for whoever wants no splitting. Raises NonFiniteOutput."""
    for name, values in outputs.items():
        _finite(name, values[index])


def _finite(name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    if not np.isfinite(values).all():
        raise NonFiniteOutput(f"the model's {name} for this image are not all finite")
    return values.astype(np.float32)
