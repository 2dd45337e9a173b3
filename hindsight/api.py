"""The library's front door: `load` a model, `detect`, `rescore`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hindsight.artifact import DEFAULT_MODEL, Artifact, find_artifact
from hindsight.boxes import check_boxes
from hindsight.decode import DEFAULT_LIMITS, ImageLimits, decode_image, pixels_of, read_header
from hindsight.detections import Detections, Rescored
from hindsight.errors import (
    CorruptImage,
    HindsightError,
    ImageError,
    ImageTooLarge,
    OptionError,
    UnsupportedImage,
)
from hindsight.inputs import detect_inputs, rescore_inputs, threshold_inputs
from hindsight.manifest import Manifest
from hindsight.options import DetectOptions
from hindsight.picture import ImageLike, address_problem
from hindsight.postprocess import split_detections, split_rescored
from hindsight.preprocess import boxes_to_input, letterbox, padded_hw, scaled_hw
from hindsight.runtime import Preprocessor, Runtime, open_runtime, preprocessor_of
from hindsight.tiling import MOST_WINDOWS, Tiling, crop, merge

__all__ = ["Detector", "ImageLike", "load", "read_image"]

_TILES_TOGETHER = 8  # in one batch: their memory is bounded, and more would be no faster


def load(
    name_or_path: str | Path = DEFAULT_MODEL,
    *,
    runtime: str = "onnxruntime",
    device: str = "cpu",
    threads: int | None = None,
) -> Detector:
    """A detector, by the name of a model or the path of its folder.

    Raises ModelNotFound, ArtifactError, OptionError, RuntimeFailure.
    """
    artifact = find_artifact(name_or_path)
    return Detector(artifact, open_runtime(runtime, artifact, device=device, threads=threads))


class Detector:
    """A loaded model. Options of the methods are the fields of DetectOptions; those left out take the model's
    defaults. Tiles, of images too large for one pass, are hindsight.tiling's.
    """

    def __init__(self, artifact: Artifact, runtime: Runtime, *, limits: ImageLimits = DEFAULT_LIMITS) -> None:
        self.artifact = artifact
        self.limits = limits
        self._runtime = runtime

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return self.artifact.manifest.class_names

    def detect(
        self,
        image: ImageLike,
        *,
        tile: int | None = None,
        overlap: float | None = None,
        whole: bool | None = None,
        **options: Any,
    ) -> Detections:
        """The objects in one image: a path, encoded bytes, uint8 RGB [H, W, 3] or [H, W], or a Pillow image.

        tile: look at it in tiles of this side, in pixels of the image, that overlap by at least the share
        `overlap` (.2), and unless `whole` is False as a whole, too; see hindsight.tiling.Tiling. The answer
        may then hold more boxes than the model's max_detections, which is a limit of each tile.

        Raises ImageError, OptionError, RuntimeFailure.
        """
        return self.detect_batch([image], tile=tile, overlap=overlap, whole=whole, **options)[0]

    def detect_batch(
        self,
        images: Iterable[ImageLike],
        *,
        tile: int | None = None,
        overlap: float | None = None,
        whole: bool | None = None,
        **options: Any,
    ) -> list[Detections]:
        """`detect` for several images, in their order; those of one padded shape go through the model
        together.
        """
        tiling, choice = resolve_options(
            self.artifact.manifest, tile=tile, overlap=overlap, whole=whole, **options
        )
        given = list(images)
        if tiling is None:
            found = self._detect_once(given, choice)
        else:
            found = [self._detect_tiled(image, tiling, choice) for image in given]
        return [each.with_image(image, keep=False) for each, image in zip(found, given, strict=True)]

    def _detect_tiled(self, image: ImageLike, tiling: Tiling, choice: DetectOptions) -> Detections:
        pixels = read_image(image, self.limits)
        image_hw = (pixels.shape[0], pixels.shape[1])
        try:
            windows = tiling.windows(image_hw)
        except OptionError as error:
            if isinstance(image, str | os.PathLike):
                raise OptionError(f"{Path(image)}: {error}") from error
            raise
        if len(windows) == 1:
            return self._detect_once([pixels], choice)[0]
        every = replace(choice, max_detections=None)
        found: list[Detections] = []
        for start in range(0, len(windows), _TILES_TOGETHER):
            crops = [crop(pixels, window) for window in windows[start : start + _TILES_TOGETHER]]
            found += self._detect_once(crops, every)
        return merge(
            found,
            windows,
            image_hw,
            nms_threshold=choice.nms_threshold,
            max_detections=choice.max_detections,
        )

    def _detect_once(self, images: Sequence[ImageLike], choice: DetectOptions) -> list[Detections]:
        """One pass for each image."""
        preprocessor = preprocessor_of(self._runtime)
        if preprocessor is not None:
            return self._detect_on_device(preprocessor, images, choice)
        manifest = self.artifact.manifest
        prepared = [letterbox(read_image(image, self.limits), manifest.resize) for image in images]
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place, lb in enumerate(prepared):
            by_shape[lb.image.shape].append(place)
        found: dict[int, Detections] = {}
        for places in by_shape.values():
            outputs = self._runtime.detect(
                detect_inputs([prepared[place] for place in places], [choice] * len(places))
            )
            for index, place in enumerate(places):
                found[place] = split_detections(outputs, index, prepared[place], manifest, choice)
        return [found[place] for place in range(len(prepared))]

    def _detect_on_device(
        self, preprocessor: Preprocessor, images: Sequence[ImageLike], choice: DetectOptions
    ) -> list[Detections]:
        """`_detect_once` where the runtime scales photos itself."""
        manifest = self.artifact.manifest
        photos = [_photo(image, self.limits) for image in images]
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, (_, original_hw) in enumerate(photos):
            by_shape[padded_hw(scaled_hw(original_hw, manifest.resize), manifest.resize)].append(place)
        found: dict[int, Detections] = {}
        for places in by_shape.values():
            thresholds = threshold_inputs([choice] * len(places))
            placements, outputs = preprocessor.detect(
                [photos[place][0] for place in places], thresholds, self.limits
            )
            for index, place in enumerate(places):
                found[place] = split_detections(outputs, index, placements[index], manifest, choice)
        return [found[place] for place in range(len(photos))]

    def rescore(self, image: ImageLike, boxes: Sequence[Sequence[float]] | NDArray[Any]) -> Rescored:
        """What the model thinks of anybody's boxes: [n, 4] xyxy in pixels of `image` (upright, after its EXIF
        orientation).

        Raises ImageError, BoxesError, RuntimeFailure, and OptionError where the model has no localization
        head.
        """
        manifest = self.artifact.manifest
        self.artifact.require_rescoring()
        lb = letterbox(read_image(image, self.limits), manifest.resize)
        checked = check_boxes(boxes, lb.original_hw, max_boxes=manifest.max_rescore_boxes)
        outputs = self._runtime.rescore(rescore_inputs([lb], [boxes_to_input(checked, lb)]))
        return split_rescored(outputs, 0, len(checked), manifest.class_names)

    def close(self) -> None:
        """Free the runtime. The detector cannot be used afterwards."""
        self._runtime.close()

    def __enter__(self) -> Detector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def resolve_options(
    manifest: Manifest, *, tile: object = None, overlap: object = None, whole: object = None, **options: Any
) -> tuple[Tiling | None, DetectOptions]:
    """What `Detector.detect` is asked for, the model's defaults filled in. Raises OptionError."""
    tiling = Tiling.resolve(tile, overlap, whole)
    passes = 1 if tiling is None else MOST_WINDOWS
    return tiling, DetectOptions.resolve(manifest, passes, **options)


def read_image(image: ImageLike, limits: ImageLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """Any ImageLike -> uint8 [H, W, 3] RGB, upright. Raises ImageError; its message names the file where one
    was given.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image), limits)
    if isinstance(image, Image.Image):
        return _from_pillow(image, limits)
    if isinstance(image, np.ndarray):
        return _from_array(image)
    path = _path_of(image)
    try:
        return decode_image(_read_file(path, limits), limits)
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error


def _photo(image: ImageLike, limits: ImageLimits) -> tuple[bytes | NDArray[np.uint8], tuple[int, int]]:
    """What a preprocessor takes, encoded images as they are, and the upright height and width."""
    if isinstance(image, np.ndarray | Image.Image):
        pixels = read_image(image, limits)
        return pixels, (pixels.shape[0], pixels.shape[1])
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image), read_header(bytes(image), limits).hw
    path = _path_of(image)
    try:
        data = _read_file(path, limits)
        return data, read_header(data, limits).hw
    except ImageError as error:
        raise type(error)(f"{path}: {error}") from error


def _path_of(image: object) -> Path:
    if not isinstance(image, str | os.PathLike):
        raise UnsupportedImage(
            f"expected a path, bytes, an array or a Pillow image, got {type(image).__name__}"
        )
    problem = address_problem(image)
    if problem is not None:
        raise UnsupportedImage(problem)
    return Path(image)


def _read_file(path: Path, limits: ImageLimits) -> bytes:
    try:
        size = path.stat().st_size
        if size > limits.max_bytes:
            raise ImageTooLarge(f"the image has {size} bytes; at most {limits.max_bytes} are accepted")
        with path.open("rb") as stream:  # a device or a pipe has no size and may never end
            return stream.read(limits.max_bytes + 1)
    except OSError as error:
        raise UnsupportedImage(f"cannot be read ({error.strerror})") from error


def _from_array(image: NDArray[Any]) -> NDArray[np.uint8]:
    grey = image.ndim == 2
    if image.dtype != np.uint8 or image.size == 0 or not (grey or (image.ndim == 3 and image.shape[2] == 3)):
        raise UnsupportedImage(
            f"expected uint8 [H, W, 3] in RGB or [H, W] in grey, got {image.dtype} {list(image.shape)}"
        )
    return np.repeat(image[:, :, None], 3, axis=2) if grey else np.ascontiguousarray(image)


def _from_pillow(image: Image.Image, limits: ImageLimits) -> NDArray[np.uint8]:
    width, height = image.size
    if width < 1 or height < 1:
        raise UnsupportedImage(f"expected at least one pixel, got {width} x {height}")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the image is {width} x {height} pixels; at most {limits.max_pixels} in all are accepted"
        )
    try:
        return pixels_of(ImageOps.exif_transpose(image))
    except HindsightError:
        raise
    except (
        Exception
    ) as error:  # a lazily opened file can still turn out broken here, in as many ways as in decode_image
        raise CorruptImage(f"the image cannot be decoded ({error})") from error
