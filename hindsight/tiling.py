"""Large images in tiles: where the tiles lie, and how their boxes become one answer.

A model scales every image to its own input size, so that on a large photo small objects vanish. Cut into
tiles they keep their size; but a tile's edge cuts objects too, and of those it shows a part. Neighbours
overlap so that each object lies whole in one of them (where it is no larger than the overlap), and `merge`
believes the tile that sees an object whole.

t: windows, the tiles and perhaps the whole image; int64 [t, 4] xyxy in pixels of the image, x2 and y2
exclusive. n: boxes, xyxy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from hindsight.detections import Detections
from hindsight.errors import OptionError
from hindsight.nms import suppress

__all__ = ["LEAST_TILE", "MOST_OVERLAP", "MOST_WINDOWS", "Pooled", "Tiling", "crop", "merge", "pool"]

LEAST_TILE = 32  # pixels
MOST_OVERLAP = 0.9
MOST_WINDOWS = 4096  # of one image: minutes of work, where more is a typing error
_OVERLAP = 0.2
_EDGE = 0.01  # of a tile's side: a box that ends so close to the edge goes on behind it


@dataclass(frozen=True)
class Tiling:
    """How images are cut. tile: the side of a tile in pixels of the image. overlap: the least part of it that
    neighbours share, 0..0.9. whole: look at the image as a whole, too, for what is larger than a tile.
    """

    tile: int
    overlap: float = _OVERLAP
    whole: bool = True

    @classmethod
    def resolve(cls, tile: object = None, overlap: object = None, whole: object = None) -> Tiling | None:
        """What a caller asks for; None without a tile. Raises OptionError naming the field, the range and the
        value.
        """
        if tile is None:
            for name, value in (("overlap", overlap), ("whole", whole)):
                if value is not None:
                    raise OptionError(f"{name} is about tiles: give tile, their side in pixels, as well")
            return None
        # __index__ marks whole numbers of every kind, numpy's too; bool has it as well.
        if isinstance(tile, bool) or not isinstance(tile, SupportsIndex) or index(tile) < LEAST_TILE:
            raise OptionError(f"tile must be a whole number of pixels, at least {LEAST_TILE}, got {tile!r}")
        if not (whole is None or isinstance(whole, bool)):
            raise OptionError(f"whole must be true or false, got {whole!r}")
        share = _OVERLAP if overlap is None else _share(overlap)
        return cls(index(tile), share, True if whole is None else whole)

    def count(self, image_hw: tuple[int, int]) -> int:
        """How many windows `windows` has; costs nothing."""
        rows, columns = (self._along(side) for side in image_hw)
        return rows * columns + (self.whole and rows * columns > 1)

    def windows(self, image_hw: tuple[int, int]) -> NDArray[np.int64]:
        """[t, 4]: the tiles row by row, then the whole image if it is wanted. An image that fits into one
        tile has one window, itself.

        Every pixel lies in a tile, every tile in the image. Tiles have the full size, apart from sides longer
        than the image's; the last of a row and of a column are moved inwards. Raises OptionError for more
        than MOST_WINDOWS.
        """
        height, width = image_hw
        count = self.count(image_hw)
        if count > MOST_WINDOWS:
            raise OptionError(
                f"tile {self.tile} with overlap {self.overlap:g} cuts this image of {width} x {height} "
                f"pixels into {count} tiles; at most {MOST_WINDOWS} are taken: choose larger tiles or "
                "less overlap"
            )
        tiles = [
            (x, y, min(x + self.tile, width), min(y + self.tile, height))
            for y in self._starts(height)
            for x in self._starts(width)
        ]
        if len(tiles) < count:
            tiles.append((0, 0, width, height))
        return np.array(tiles, np.int64)

    def _along(self, side: int) -> int:
        """Tiles along a side."""
        return 1 if side <= self.tile else -(-(side - self.tile) // self._step) + 1

    def _starts(self, side: int) -> list[int]:
        """Where the tiles along a side begin."""
        return [0] if side <= self.tile else [*range(0, side - self.tile, self._step), side - self.tile]

    @property
    def _step(self) -> int:
        # less a billionth: 0.3 * 640 is a little more than 192 in floating point
        return max(1, self.tile - math.ceil(self.tile * self.overlap - 1e-9))


def crop(pixels: NDArray[np.uint8], window: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The pixels [h, w, 3] of one window, as a copy: a view would keep the whole image in memory."""
    x1, y1, x2, y2 = (int(value) for value in window)
    return pixels[y1:y2, x1:x2].copy()


@dataclass(frozen=True, eq=False)
class Pooled:
    """All that the windows' passes have found, in pixels of the image. cut: bool [n], boxes that end at an
    edge of their tile where the image goes on. seen: bool [n], whether another window shows all of this box,
    away from its own edges, and at least as finely where the box is not cut.
    """

    detections: Detections
    cut: NDArray[np.bool_]
    seen: NDArray[np.bool_]


def merge(
    found: Sequence[Detections],
    windows: NDArray[np.int64],
    image_hw: tuple[int, int],
    *,
    nms_threshold: float,
    max_detections: int | None = None,
) -> Detections:
    """One answer for the image, best score first. found: what each window's pass has found, all its boxes,
    in pixels of that window.

    The order of the windows makes no difference, and one window's answer is what its pass has found. Boxes
    keep the numbers that their own pass gave them.
    """
    if len(windows) == 1:
        return found[0].select(np.arange(len(found[0]))[:max_detections])
    pooled = pool(found, windows, image_hw)
    detections, cut = pooled.detections, pooled.cut
    rows = np.flatnonzero(~pooled.seen)
    order = rows[np.lexsort((-detections.scores[rows], cut[rows]))]  # what is whole comes first
    kept = suppress(detections.boxes, detections.labels, order, nms_threshold, parts=cut)
    ranked = kept[np.argsort(-detections.scores[kept], kind="stable")]
    return detections.select(ranked[:max_detections])


def pool(
    found: Sequence[Detections],
    windows: NDArray[np.int64],
    image_hw: tuple[int, int],
    *,
    edge: float = _EDGE,
) -> Pooled:
    """See Pooled. edge: in parts of a tile's side; a box that ends so close to the edge is cut.

    Rows are ordered by their windows' places, whatever the order in which these are given, so that equal
    scores are told apart in the same way.
    """
    if len(found) != len(windows) or not len(windows):
        raise ValueError(f"expected what each of {len(windows)} windows has found, got {len(found)}")
    places = np.lexsort((windows[:, 3], windows[:, 2], windows[:, 0], windows[:, 1]))
    parts = [_moved(found[place], windows[place], image_hw) for place in places]
    detections = _concatenated(parts, image_hw)
    home = np.repeat(places, [len(part) for part in parts])
    cut = _ends_inside(detections.boxes, windows[home], image_hw, edge)
    return Pooled(detections, cut, _seen_elsewhere(detections.boxes, home, cut, windows, image_hw, edge))


def _seen_elsewhere(
    boxes: NDArray[np.float32],
    home: NDArray[np.intp],
    cut: NDArray[np.bool_],
    windows: NDArray[np.int64],
    image_hw: tuple[int, int],
    edge: float,
) -> NDArray[np.bool_]:
    """Pooled.seen. home: [n], each box's window."""
    sizes = np.prod(windows[:, 2:] - windows[:, :2], axis=1)
    seen = np.zeros(len(boxes), np.bool_)
    for place, window in enumerate(windows):
        inside = ~_ends_inside(boxes, window[None], image_hw, edge)
        inside &= (boxes[:, :2] >= window[:2]).all(axis=1) & (boxes[:, 2:] <= window[2:]).all(axis=1)
        better = np.where(cut, sizes[place] <= sizes[home], sizes[place] < sizes[home])
        seen |= inside & better & (home != place)
    return seen


def _ends_inside(
    boxes: NDArray[np.float32], windows: NDArray[np.int64], image_hw: tuple[int, int], edge: float
) -> NDArray[np.bool_]:
    """[n]: whether a side of a box lies at, or past, a side of its window that is no side of the image.
    windows: [n, 4], or [1, 4] for all.
    """
    height, width = image_hw
    sides = np.tile(windows[:, 2:] - windows[:, :2], 2)
    inner = windows != np.array([0, 0, width, height])
    gap = np.concatenate([boxes[:, :2] - windows[:, :2], windows[:, 2:] - boxes[:, 2:]], axis=1)
    ends: NDArray[np.bool_] = (inner & (gap <= edge * sides)).any(axis=1)
    return ends


def _moved(found: Detections, window: NDArray[np.int64], image_hw: tuple[int, int]) -> Detections:
    """From pixels of the window to pixels of the image."""
    shift = np.tile(window[:2], 2).astype(np.float32)
    return replace(found, boxes=found.boxes + shift, image_hw=image_hw)


def _concatenated(parts: Sequence[Detections], image_hw: tuple[int, int]) -> Detections:
    def column(of: Callable[[Detections], NDArray[Any] | None]) -> NDArray[Any] | None:
        columns = [values for part in parts if (values := of(part)) is not None]
        return np.concatenate(columns) if len(columns) == len(parts) else None

    return Detections(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.labels for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.class_scores for part in parts]),
        column(lambda part: part.ious),
        column(lambda part: part.purities),
        column(lambda part: part.integrities),
        parts[0].class_names,
        image_hw,
        column(lambda part: part.masks),
    )


def _share(value: object) -> float:
    number: float | None = None
    if hasattr(value, "__float__") and not isinstance(value, bool):
        try:
            number = float(value)  # whatever has __float__: numpy scalars too
        except (TypeError, ValueError):
            number = None
    if number is None or not 0 <= number <= MOST_OVERLAP:
        raise OptionError(f"overlap must be a number in 0..{MOST_OVERLAP:g}, got {value!r}")
    return number
