"""The model under its own name: encoded images in, boxes in pixels of the original images out.

B: images of the request. N: the largest number of detections among them, may be 0. m: side of a mask.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.detections import Detections
from hindsight.errors import ImageError
from hindsight.options import DetectOptions
from service.admission import Slot
from service.callers import Caller
from service.kserve.tensors import BYTES, OutputTensor, TensorSpec, Values
from service.pipeline import Services, detect_image
from service.together import all_or_none
from service.visit import count_images

_SCORES = ("scores", "class_scores")
_OPINIONS = ("ious", "purities", "integrities")


class ImageModel:
    """Options come as request parameters, those of POST /detect; numbers may come as texts, because
    clients of gRPC cannot send fractions.
    """

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        self.artifact = artifact
        self.name = manifest.name
        self.inputs = (TensorSpec("image", BYTES, (-1,)),)
        opinions = _OPINIONS if manifest.has_localization else ()
        self.outputs = (
            TensorSpec("num_detections", "INT64", (-1,)),
            TensorSpec("boxes", "FP32", (-1, -1, 4)),
            TensorSpec("labels", "INT64", (-1, -1)),
            TensorSpec("label_names", BYTES, (-1, -1)),
            *(TensorSpec(name, "FP32", (-1, -1)) for name in (*_SCORES, *opinions)),
            *([TensorSpec("masks", "FP32", (-1, -1, -1, -1))] if manifest.has_masks else []),
        )

    async def infer(
        self, services: Services, inputs: Mapping[str, Values], parameters: Mapping[str, Any], caller: Caller
    ) -> dict[str, OutputTensor]:
        """All outputs by name. A head that the model lacks is absent. One image that fails fails the request,
        because the protocol has no place for its error. Raises HindsightError.
        """
        options = self._options(parameters)
        images = inputs["image"]
        assert isinstance(images, list), "an input of BYTES"

        async def one(index: int, slot: Slot) -> Detections:
            try:
                detected = await detect_image(services, self.artifact, options, images[index], slot)
            except ImageError as error:
                raise type(error)(f"image {index}: {error}") from error
            return detected.detections

        count_images(self.name, len(images))
        slots = services.batcher.admit(len(images), caller, model=self.name)
        return _padded(await all_or_none(slots, [one(index, slot) for index, slot in enumerate(slots)]))

    def _options(self, parameters: Mapping[str, Any]) -> DetectOptions:
        given = dict(parameters)
        count = given.get("max_detections")
        if isinstance(count, str) and count.isascii() and count.isdecimal():
            given["max_detections"] = int(count[:18])
        classes = given.get("classes")
        if isinstance(classes, str) and classes not in self.artifact.manifest.class_names:
            given["classes"] = [part.strip() for part in classes.split(",") if part.strip()]
        return DetectOptions.resolve(self.artifact.manifest, **given)


def _padded(found: list[Detections]) -> dict[str, OutputTensor]:
    """Rows past an image's count are zero, its names there empty."""
    width = max(len(each) for each in found)
    tensors = {
        "num_detections": OutputTensor.of(
            "num_detections", np.array([len(each) for each in found], np.int64)
        ),
        "boxes": _column("boxes", [each.boxes for each in found], width),
        "labels": _column("labels", [each.labels for each in found], width),
        "label_names": OutputTensor(
            "label_names",
            BYTES,
            (len(found), width),
            [name for each in found for name in _names(each, width)],
        ),
    }
    for name in (*_SCORES, *_OPINIONS, "masks"):
        columns = [column for each in found if (column := getattr(each, name)) is not None]
        if len(columns) == len(found):
            tensors[name] = _column(name, columns, width)
    return tensors


def _column(name: str, rows: list[NDArray[Any]], width: int) -> OutputTensor:
    padded = np.zeros((len(rows), width, *rows[0].shape[1:]), rows[0].dtype)
    for target, own in zip(padded, rows, strict=True):
        target[: len(own)] = own
    return OutputTensor.of(name, padded)


def _names(each: Detections, width: int) -> list[bytes]:
    names = [name.encode() for name in each.names]
    return names + [b""] * (width - len(names))
