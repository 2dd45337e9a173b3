"""`NAME.tensor`: the signature of model.onnx itself, for clients that letterbox on their own.

B: images, all of one padded shape H, W. K: the model's max_detections. Boxes are in pixels of the input.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.errors import OptionError
from hindsight.options import DetectOptions
from hindsight.preprocess import Letterboxed
from service.batcher import Done
from service.callers import Caller
from service.errors import BadBody
from service.kserve.tensors import DTYPES, OutputTensor, TensorSpec, Values
from service.pipeline import Services, detect_tensor
from service.together import all_or_none
from service.visit import count_images

SUFFIX = ".tensor"
_PER_IMAGE = ("class_threshold", "score_threshold", "iou_weight")


class TensorModel:
    """Thresholds that are not given are the model's defaults. There are no parameters."""

    def __init__(self, artifact: Artifact) -> None:
        manifest = artifact.manifest
        rows = manifest.max_detections
        self.artifact = artifact
        self.name = manifest.name + SUFFIX
        self.inputs = (
            TensorSpec("images", "UINT8", (-1, -1, -1, 3)),
            TensorSpec("image_sizes", "INT64", (-1, 2)),
            *(TensorSpec(name, "FP32", (-1,), optional=True) for name in _PER_IMAGE),
            TensorSpec("nms_threshold", "FP32", (1,), optional=True),
        )
        opinions = ("ious", "purities", "integrities") if manifest.has_localization else ()
        self.outputs = (
            TensorSpec("num_detections", "INT64", (-1,)),
            TensorSpec("boxes", "FP32", (-1, rows, 4)),
            TensorSpec("labels", "INT64", (-1, rows)),
            *(TensorSpec(name, "FP32", (-1, rows)) for name in ("scores", "class_scores", *opinions)),
            *([TensorSpec("masks", "FP32", (-1, rows, -1, -1))] if manifest.has_masks else []),
        )

    async def infer(
        self, services: Services, inputs: Mapping[str, Values], parameters: Mapping[str, Any], caller: Caller
    ) -> dict[str, OutputTensor]:
        """All outputs by name; one that the model's graph lacks is absent. Raises HindsightError."""
        if parameters:
            raise OptionError(
                f"{self.name} takes no parameters, got {', '.join(sorted(parameters))[:128]}; "
                "its thresholds are inputs"
            )
        images = self._images(inputs)
        options = self._options(inputs, len(images))
        name = self.artifact.manifest.name
        count_images(name, len(images))
        slots = services.batcher.admit(len(images), caller, model=name)
        works = [
            detect_tensor(services, self.artifact, *each) for each in zip(options, images, slots, strict=True)
        ]
        return self._joined(await all_or_none(slots, works))

    def _images(self, inputs: Mapping[str, Values]) -> list[Letterboxed]:
        """Checked: the padded shape is one that the model's own resize rule could make."""
        images, sizes = inputs["images"], inputs["image_sizes"]
        assert isinstance(images, np.ndarray) and isinstance(sizes, np.ndarray), "inputs of numbers"
        rule = self.artifact.manifest.resize
        step = rule.pad_multiple
        longest = -(-max(rule.long_side, rule.short_side) // step) * step
        height, width = images.shape[1:3]
        for side, name in ((height, "height"), (width, "width")):
            if side % step or not step <= side <= longest:
                raise BadBody(
                    f"input images: the {name} must be a multiple of {step} in {step}..{longest}, got {side}"
                )
        if len(sizes) != len(images):
            raise BadBody(f"{len(images)} images and {len(sizes)} image_sizes; expected one for each")
        if not ((sizes >= 1) & (sizes <= (height, width))).all():
            raise BadBody(
                f"input image_sizes: each must be a height in 1..{height} and a width in 1..{width}"
            )
        valid = [(int(h), int(w)) for h, w in sizes]
        return [Letterboxed(image, hw, hw) for image, hw in zip(images, valid, strict=True)]

    def _options(self, inputs: Mapping[str, Values], count: int) -> list[DetectOptions]:
        given = {name: inputs[name] for name in (*_PER_IMAGE, "nms_threshold") if name in inputs}
        for name in _PER_IMAGE:
            if name in given and len(given[name]) != count:
                raise BadBody(f"{count} images and {len(given[name])} of {name}; expected one for each")

        def row(index: int) -> DetectOptions:
            values = {
                name: float(column[0 if name == "nms_threshold" else index]) for name, column in given.items()
            }
            return DetectOptions.resolve(self.artifact.manifest, **values)

        return [row(index) for index in range(count)]

    def _joined(self, rows: list[Done]) -> dict[str, OutputTensor]:
        tensors: dict[str, OutputTensor] = {}
        for spec in self.outputs:
            if not all(spec.name in row.outputs for row in rows):
                continue
            columns = [np.asarray(row.outputs[spec.name][row.index]) for row in rows]
            array: NDArray[Any] = np.stack(columns).astype(DTYPES[spec.datatype], copy=False)
            tensors[spec.name] = OutputTensor.of(spec.name, array)
        return tensors
