"""The photos of a folder as clients send them: alone, in the server's batches, and in batches of mixed sizes.

Every backend is given the same tensors, made anew each time so that no folder has to fit into memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from export.parity import Filters
from hindsight.api import read_image
from hindsight.decode import IMAGE_SUFFIXES
from hindsight.errors import OptionError
from hindsight.inputs import detect_inputs
from hindsight.manifest import Manifest, ResizeRule
from hindsight.options import DetectOptions
from hindsight.preprocess import Letterboxed, letterbox

Run = Literal["alone", "batched", "mixed sizes"]
# Those of `hindsight evaluate`: nearly everything is reported, so that there is much to compare.
_LOW_CLASS_THRESHOLD, _LOW_SCORE_THRESHOLD = 0.05, 0.0
_OTHER_WEIGHT = 0.25
_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True)
class Photo:
    """An image file; `cut`: only three quarters of it, so that batches mix sizes in any folder."""

    path: Path
    cut: bool = False

    def letterboxed(self, rule: ResizeRule) -> Letterboxed:
        """As the model takes it. Raises ImageError."""
        pixels = read_image(self.path)
        return letterbox(_three_quarters(pixels) if self.cut else pixels, rule)


@dataclass(frozen=True)
class PhotoBatch:
    """What goes through the model together."""

    run: Run
    photos: tuple[Photo, ...]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A batch as tensors: `feeds` of model.onnx, and per image the thresholds it runs with and its geometry
    (a Letterboxed without its pixels).
    """

    feeds: dict[str, NDArray[Any]]
    filters: tuple[Filters, ...]
    geometry: tuple[Letterboxed, ...]


def find_photos(folder: Path, limit: int | None) -> list[Path]:
    """The folder's image files by name, at most `limit`. Raises OptionError where there is none."""
    if not folder.is_dir():
        raise OptionError(f"--images must be a folder of images, {folder} is none")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise OptionError(f"--images {folder}: no image in it")
    return paths[:limit]


def plan_batches(paths: Sequence[Path], rule: ResizeRule, batch: int) -> list[PhotoBatch]:
    """Each photo alone; batches of one padded shape, as the server forms them; batches whose shapes differ.

    The last batch of a shape may be smaller. Raises ImageError for a file that cannot be read.
    """
    shapes: dict[tuple[int, ...], list[Path]] = defaultdict(list)
    for path in paths:
        shapes[Photo(path).letterboxed(rule).image.shape].append(path)
    plan = [PhotoBatch("alone", (Photo(path),)) for path in paths]
    if batch == 1:
        return plan
    for same in shapes.values():
        plan += [PhotoBatch("batched", tuple(map(Photo, part))) for part in _parts(same, batch)]
    for upright in (False, True):
        # One orientation a batch: padded to the largest it stays within the sides of the resize rule.
        mixed = [path for shape, own in shapes.items() if (shape[0] > shape[1]) == upright for path in own]
        for part in _parts(mixed, batch):
            photos = tuple(Photo(path, cut=index % 2 == 1) for index, path in enumerate(part))
            plan.append(PhotoBatch("mixed sizes", photos))
    return plan


def _parts(paths: Sequence[Path], batch: int) -> Iterator[Sequence[Path]]:
    for start in range(0, len(paths), batch):
        if len(paths[start : start + batch]) > 1:  # one photo has run alone
            yield paths[start : start + batch]


def prepare(batch: PhotoBatch, manifest: Manifest) -> Prepared:
    """Tensors of the batch, padded to its largest sides.

    Alone, a photo runs with low thresholds; in a batch every other one runs with the model's defaults, the
    rest with low ones and another weight, so that each row's own thresholds count.
    """
    boxed = [photo.letterboxed(manifest.resize) for photo in batch.photos]
    height, width = (max(lb.image.shape[axis] for lb in boxed) for axis in (0, 1))
    boxed = [replace(lb, image=_padded(lb.image, height, width)) for lb in boxed]
    own = DetectOptions.resolve(manifest)
    least = min(_LOW_CLASS_THRESHOLD, own.class_threshold)
    low = replace(own, class_threshold=least, score_threshold=_LOW_SCORE_THRESHOLD)
    other = replace(low, iou_weight=_OTHER_WEIGHT)
    options = [low] if len(boxed) == 1 else [own if index % 2 else other for index in range(len(boxed))]
    return Prepared(
        detect_inputs(boxed, options),
        tuple(Filters(o.class_threshold, o.score_threshold, o.nms_threshold) for o in options),
        tuple(replace(lb, image=_NO_PIXELS) for lb in boxed),
    )


def _padded(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (height, width):
        return image
    padded = np.zeros((height, width, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def _three_quarters(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut on the right or below, whichever leaves a wide image wide and a tall one tall."""
    height, width = pixels.shape[:2]
    cut_long = max(height, width) * 3 >= min(height, width) * 4
    if (width >= height) == cut_long:
        return pixels[:, : -(-width * 3 // 4)]
    return pixels[: -(-height * 3 // 4)]
