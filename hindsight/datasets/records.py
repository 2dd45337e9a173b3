"""What every format is read into, and the checks they all share.

Conventions, decided here:
- A box may pass the image's edge by up to EDGE_TOLERANCE pixels (rounding in the annotation tool): it is
  clipped without a word. Further out it is a problem: the file and the image probably do not belong
  together.
- An image's size counts AFTER its EXIF orientation, because that is how it is decoded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from hindsight.datasets.problems import Problem
from hindsight.datasets.shapes import NOTHING, Shape, ShapeError, read_shape
from hindsight.hints import listed
from hindsight.preprocess import ImageLimits

EDGE_TOLERANCE = 1.0
_EXIF_ORIENTATION = 0x0112
_TRANSPOSED = (5, 6, 7, 8)  # EXIF orientations that swap width and height

Line = Callable[
    [], int | None
]  # asked only when there is a problem: finding a line in a large JSON file takes a scan


@dataclass(frozen=True)
class RawBox:
    """A box as annotated: xyxy in continuous pixels, not yet checked, and where it was read."""

    xyxy: tuple[float, float, float, float]
    class_name: str
    crowd: bool
    area: float | None  # None: the box's own area
    line: Line
    entry: str  # how a person finds it in the file: "object 3 (RBC)", "annotation 17"
    fault: str | None = None  # what the reader already knows to be wrong with it
    segmentation: Any = None  # as COCO has it, unread
    annotation_id: int | None = None  # COCO's; other formats have none


@dataclass
class RawImage:
    """An image entry as annotated. `size_wh` is what the annotation file claims, if it does."""

    path: Path
    image_id: int
    source: Path
    line: Line
    entry: str  # "", or "image 42" where one file holds many
    size_wh: tuple[int, int] | None
    boxes: list[RawBox] = field(default_factory=list)
    normalised: bool = False  # boxes count in widths and heights of the image, not in pixels


@dataclass(frozen=True, eq=False)
class Record:
    """A checked image entry, its boxes those that are good.

    boxes: float32 [n, 4] xyxy, original pixels. labels: int64 [n], index into the set's class names. crowd:
    bool [n], neither object nor background. area: float32 [n], square pixels as annotated. raw_rows: int64
    [n], which of the raw image's boxes each one was. shapes: n, where they were asked for.
    """

    path: Path
    image_id: int
    image_hw: tuple[int, int]
    boxes: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    labels: np.ndarray[tuple[int], np.dtype[np.int64]]
    crowd: np.ndarray[tuple[int], np.dtype[np.bool_]]
    area: np.ndarray[tuple[int], np.dtype[np.float32]]
    raw_rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    shapes: tuple[Shape, ...] | None = None
    semantic_path: Path | None = None


def header_size_wh(path: Path) -> tuple[int, int]:
    """Width and height from the image's header, as decoded (EXIF orientation applied).

    Raises OSError where the file cannot be read, UnidentifiedImageError (an OSError) where it is no image.
    """
    with Image.open(path) as image:
        width, height = image.size
        try:
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
        except Exception:  # as in decoding: EXIF that cannot be read tells no orientation
            orientation = 1
    return (height, width) if orientation in _TRANSPOSED else (width, height)


def check_image(
    raw: RawImage, class_index: dict[str, int], problems: list[Problem], *, masks: bool = False
) -> Record | None:
    """`raw` with its good boxes only, None if the image is of no use; appends to `problems`.

    With `masks` a box is good only if its shape is; a crowd may have none.
    """

    def image_problem(message: str) -> None:
        prefix = f"{raw.entry}: " if raw.entry else ""
        problems.append(Problem(raw.source, raw.line(), prefix + message))

    if not raw.path.is_file():
        image_problem(f"image {raw.path} does not exist")
        return None
    try:
        width, height = header_size_wh(raw.path)
    except UnidentifiedImageError:
        image_problem(f"{raw.path} is not an image")
        return None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        image_problem(f"image {raw.path} cannot be read: {error}")
        return None
    if width * height > ImageLimits().max_pixels:
        image_problem(f"{raw.path} is {width}x{height}: more than {ImageLimits().max_pixels} pixels")
        return None
    if raw.size_wh is not None and raw.size_wh != (width, height):
        claimed = f"{raw.size_wh[0]}x{raw.size_wh[1]}"
        image_problem(
            f"annotated for an image of {claimed}, but {raw.path.name} is {width}x{height} (width x height)"
        )
        return None

    rows: list[int] = []
    corners: list[tuple[float, float, float, float]] = []
    labels: list[int] = []
    crowd: list[bool] = []
    area: list[float] = []
    shapes: list[Shape] = []
    for row, given in enumerate(raw.boxes):
        box = _in_pixels(given, width, height) if raw.normalised else given
        fault = box.fault or _box_fault(box, width, height)
        if fault is None and box.class_name not in class_index:
            fault = f"unknown class {box.class_name!r} (known: {listed(class_index)})"
        shape = NOTHING
        if fault is None and masks and not (box.crowd and box.segmentation is None):
            try:
                shape = read_shape(box.segmentation, (width, height), EDGE_TOLERANCE)
            except ShapeError as error:
                fault = str(error)
        if fault is not None:
            problems.append(Problem(raw.source, box.line(), f"{box.entry}: {fault}"))
            continue
        x1, y1, x2, y2 = box.xyxy
        clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        rows.append(row)
        corners.append(clipped)
        labels.append(class_index[box.class_name])
        crowd.append(box.crowd)
        shapes.append(shape)
        own_area = (clipped[2] - clipped[0]) * (clipped[3] - clipped[1])
        area.append(own_area if box.area is None else box.area)
    return Record(
        path=raw.path,
        image_id=raw.image_id,
        image_hw=(height, width),
        boxes=np.array(corners, dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
        crowd=np.array(crowd, dtype=np.bool_),
        area=np.array(area, dtype=np.float32),
        raw_rows=np.array(rows, dtype=np.int64),
        shapes=tuple(shapes) if masks else None,
    )


def _in_pixels(box: RawBox, width: int, height: int) -> RawBox:
    x1, y1, x2, y2 = box.xyxy
    return replace(box, xyxy=(x1 * width, y1 * height, x2 * width, y2 * height))


def _box_fault(box: RawBox, width: int, height: int) -> str | None:
    x1, y1, x2, y2 = box.xyxy
    shown = f"({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if not all(math.isfinite(value) for value in box.xyxy):
        return f"box {shown} holds a value that is not a number"
    if x2 < x1 or y2 < y1:
        return f"inverted box {shown}: a maximum lies before its minimum"
    if x2 == x1 or y2 == y1:
        return f"empty box {shown}: no width or no height"
    outside = max(-x1, -y1, x2 - width, y2 - height)
    if outside > EDGE_TOLERANCE:
        return f"box {shown} reaches {outside:g} px outside the {width}x{height} image"
    if min(x2, width) <= max(x1, 0.0) or min(y2, height) <= max(y1, 0.0):
        return f"box {shown} lies wholly outside the {width}x{height} image"
    if box.area is not None and not (math.isfinite(box.area) and box.area >= 0):
        return f"area {box.area:g} is negative or not a number"
    return None
