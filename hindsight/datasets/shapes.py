"""An object's shape as COCO annotates it, moved along with its image and made a bitmap last.

Points are (x, y) in continuous pixels: the image spans [0, W] x [0, H], and the pixel in column c has its
centre at c + .5. A polygon keeps its precision through every flip and scale; a run-length code is kept as the
boxes that its runs cover, which move the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]  # [n, 2]
Move = Callable[[Points], Points]
Frame = tuple[int, int, int, int]  # xyxy, whole pixels


_FAR = 1e9  # pixels: infinite, NaN or a slip of the keyboard


class ShapeError(ValueError):
    """The segmentation cannot be read; the message says what is wrong with it."""


@dataclass(frozen=True, eq=False)
class Shape:
    """The union of its `rings` (polygons, [k, 2] each) and of its `boxes` [m, 4] xyxy."""

    rings: tuple[Points, ...]
    boxes: NDArray[np.float32]

    def moved(self, move: Move) -> Shape:
        """The shape with `move` applied to its points; boxes must stay boxes: no turns but right angles."""
        first, second = move(self.boxes[:, :2]), move(self.boxes[:, 2:])
        boxes = np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)
        return Shape(tuple(move(ring) for ring in self.rings), boxes)

    def points(self) -> Points:
        """All its corners [n, 2]."""
        return np.concatenate([*self.rings, self.boxes[:, :2], self.boxes[:, 2:]])

    def bitmap(self, hw: tuple[int, int]) -> tuple[NDArray[np.uint8], Frame]:
        """(1 where the shape covers a pixel's centre, in the frame; the frame), cut at an image of size hw.

        The frame holds at least one pixel, also where the shape is too thin to cover any.
        """
        frame = _frame(self.points(), hw)
        x1, y1, x2, y2 = frame
        covered = _fill_boxes(self.boxes - np.array([x1, y1, x1, y1], np.float32), y2 - y1, x2 - x1)
        for ring in self.rings:
            covered |= _fill_ring(ring.astype(np.float64) - (x1, y1), y2 - y1, x2 - x1)
        return covered.astype(np.uint8), frame


NOTHING = Shape((), np.zeros((0, 4), np.float32))


def pack(shapes: Sequence[Shape], hw: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The bitmaps of an image's shapes, as InstanceMasks takes them: pixels [P], frames [g, 4]."""
    drawn = [shape.bitmap(hw) for shape in shapes]
    pixels = np.concatenate([bitmap.ravel() for bitmap, _ in drawn] or [np.zeros(0, np.uint8)])
    return pixels, np.array([frame for _, frame in drawn], np.int64).reshape(-1, 4)


def read_shape(segmentation: Any, size_wh: tuple[int, int], tolerance: float) -> Shape:
    """COCO's `segmentation`: polygons [[x1, y1, x2, y2, ...], ...] or a run-length code of the image.

    Raises ShapeError, also for a polygon farther than `tolerance` pixels outside the image.
    """
    if segmentation is None:
        raise ShapeError("segmentation is missing, and masks are to be learned")
    if isinstance(segmentation, dict):
        return _read_runs(segmentation, size_wh)
    if not isinstance(segmentation, list) or not segmentation:
        raise ShapeError(f"segmentation is {_brief(segmentation)}, expected polygons or a run-length code")
    rings = tuple(_read_ring(ring, index + 1) for index, ring in enumerate(segmentation))
    shape = Shape(rings, NOTHING.boxes)
    points = shape.points()
    outside = float(max(-points.min(), (points - np.array(size_wh)).max()))
    if outside > tolerance:
        width, height = size_wh
        raise ShapeError(f"a polygon reaches {outside:g} px outside the {width}x{height} image")
    return shape


def _read_ring(ring: Any, number: int) -> Points:
    if not isinstance(ring, list) or not all(_is_number(value) for value in ring):
        raise ShapeError(f"polygon {number} is {_brief(ring)}, expected a list of numbers")
    if len(ring) % 2 or len(ring) < 6:
        raise ShapeError(f"polygon {number} has {len(ring)} numbers, expected x and y of 3 or more points")
    if not all(-_FAR < value < _FAR for value in ring):  # NaN compares false
        raise ShapeError(f"polygon {number} holds a value that is not a number")
    return np.array(ring, np.float32).reshape(-1, 2)


def _read_runs(code: dict[str, Any], size_wh: tuple[int, int]) -> Shape:
    """Runs of 0 and 1 in turn, column after column."""
    width, height = size_wh
    if code.get("size") != [height, width]:
        raise ShapeError(
            f"run-length code of size {_brief(code.get('size'))} (height, width), the image has "
            f"{[height, width]}"
        )
    counts = code.get("counts")
    if isinstance(counts, str):
        counts = _decompressed(counts)
    if not isinstance(counts, list) or not all(_is_whole(n) and n >= 0 for n in counts):
        raise ShapeError(f"run-length counts are {_brief(counts)}, expected whole numbers from 0 or a string")
    if sum(counts) != width * height:
        raise ShapeError(f"run-length counts add up to {sum(counts)}, the image has {width * height} pixels")
    boxes: list[tuple[int, int, int, int]] = []
    position = 0
    for index, count in enumerate(counts):
        if index % 2 and count:
            boxes.extend(_run_boxes(position, position + count, height))
        position += count
    return Shape((), np.array(boxes, np.float32).reshape(-1, 4))


def _run_boxes(start: int, end: int, height: int) -> list[Frame]:
    """The pixels start..end - 1, counted down the columns: part of a column, whole ones, part of a column."""
    first, top = divmod(start, height)
    last, bottom = divmod(end - 1, height)
    bottom += 1
    if first == last:
        return [(first, top, first + 1, bottom)]
    boxes = [(first, top, first + 1, height), (first + 1, 0, last, height), (last, 0, last + 1, bottom)]
    return [box for box in boxes if box[0] < box[2]]


def _decompressed(text: str) -> list[int]:
    """COCO's strings: five bits a character, lowest first; from the fourth number on what is coded is the
    difference to the one before last.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - ord("0")
        if not 0 <= bits < 64 or shift > 60:
            raise ShapeError("compressed run-length counts hold what is no code")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # the number goes on
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ShapeError("compressed run-length counts end in the middle of a number")
    return counts


def _frame(points: Points, hw: tuple[int, int]) -> Frame:
    """Whole pixels around the points, inside the image, at least one."""
    height, width = hw
    if not len(points):
        return 0, 0, 1, 1
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    x1, y1 = (min(max(math.floor(low), 0), side - 1) for low, side in ((left, width), (top, height)))
    x2, y2 = (
        max(min(math.ceil(high), side), low + 1)
        for high, side, low in ((right, width, x1), (bottom, height, y1))
    )
    return x1, y1, x2, y2


def _fill_ring(ring: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """Pixel centres inside the polygon [k, 2], by the even-odd rule; local to a frame of height x width."""
    start, end = ring, np.roll(ring, -1, axis=0)
    centres = np.arange(height) + 0.5
    low, high = np.minimum(start[:, 1], end[:, 1]), np.maximum(start[:, 1], end[:, 1])
    rows, edges = np.nonzero((low <= centres[:, None]) & (centres[:, None] < high))
    along = (centres[rows] - start[edges, 1]) / (end[edges, 1] - start[edges, 1])
    crossing = start[edges, 0] + along * (end[edges, 0] - start[edges, 0])
    # a row's pixels change sides from the first centre right of a crossing on
    columns = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    changes = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1))
    inside = changes.reshape(height, width + 1)[:, :width].cumsum(axis=1) % 2
    return np.asarray(inside == 1)


def _fill_boxes(boxes: NDArray[np.float32], height: int, width: int) -> NDArray[np.bool_]:
    """Pixel centres inside any of the boxes [m, 4]."""
    depth = np.zeros((height + 1, width + 1), np.int64)
    edges = np.ceil(boxes - 0.5).astype(np.int64)
    x1, x2 = (np.clip(edges[:, column], 0, width) for column in (0, 2))
    y1, y2 = (np.clip(edges[:, column], 0, height) for column in (1, 3))
    for y, x, sign in ((y1, x1, 1), (y1, x2, -1), (y2, x1, -1), (y2, x2, 1)):
        np.add.at(depth, (y, x), sign)
    return np.asarray(depth.cumsum(axis=0).cumsum(axis=1)[:height, :width] > 0)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
