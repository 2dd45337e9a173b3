"""One image's work, what lets several share a batch, and the batch they make."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.inputs import detect_inputs, rescore_inputs
from hindsight.options import DetectOptions
from hindsight.preprocess import Letterboxed
from service.engine import Call
from service.estimates import ShapeKey

Operation = Literal["detect", "rescore"]
Bucket = tuple[Any, ...]
_NMS_STEP = 0.05
_SMALLEST_BOX_PADDING = 16


@dataclass(frozen=True)
class Work:
    """One letterboxed image and what to do with it. `boxes`: float32 [n, 4] in input pixels, for rescore
    only.
    """

    artifact: Artifact
    operation: Operation
    image: Letterboxed
    options: DetectOptions | None = None
    boxes: NDArray[np.float32] | None = None

    @property
    def shape_key(self) -> ShapeKey:
        height, width = self.image.image.shape[:2]
        return self.artifact.manifest.name, self.operation, (height, width)

    @property
    def bucket(self) -> Bucket:
        """Works of one bucket may share a batch: one graph, one padded shape, one nms_threshold (or padded
        box count).
        """
        extra = self.options.nms_threshold if self.options is not None else _padded_count(self.boxes)
        return (*self.shape_key, extra)


def round_nms_threshold(value: float) -> float:
    """The graph takes one nms_threshold a batch; a step of .05 lets different requests meet in one batch."""
    return round(max(_NMS_STEP, min(1.0, round(value / _NMS_STEP) * _NMS_STEP)), 2)


def call_for(works: list[Work]) -> Call:
    """The batch of these works, all of one bucket."""
    first = works[0]
    manifest = first.artifact.manifest
    images = [work.image for work in works]
    if first.operation == "detect":
        inputs = detect_inputs(images, [work.options for work in works if work.options is not None])
        rows = manifest.max_detections
        # num_detections 8; a row: boxes 16, label 8, up to five scores 20, a 28 x 28 mask 3136;
        # alignment of each tensor.
        reply_bytes = len(works) * (8 + rows * (16 + 8 + 20 + 4 * 28 * 28)) + 16 * 64
    else:
        boxes = [work.boxes for work in works if work.boxes is not None]
        rows = max(_padded_count(each) for each in boxes)
        inputs = rescore_inputs(images, boxes)
        inputs["boxes"] = np.pad(inputs["boxes"], ((0, 0), (0, rows - inputs["boxes"].shape[1]), (0, 0)))
        reply_bytes = len(works) * rows * 4 * (3 + len(manifest.classes)) + 16 * 64
    return Call(manifest.name, first.operation, inputs, reply_bytes)


def _padded_count(boxes: NDArray[np.float32] | None) -> int:
    """Box counts rounded up to a power of two, so that requests with similar counts share a bucket and its
    memory plan.
    """
    count = 0 if boxes is None else len(boxes)
    padded = _SMALLEST_BOX_PADDING
    while padded < count:
        padded *= 2
    return padded
