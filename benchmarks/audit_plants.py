"""Wrong boxes planted among good ones, with their IoU against the original known.

A planted box keeps its class. Its IoU with the box it replaces is drawn evenly between LEAST and MOST, then
one of four kinds makes it:

    shifted   moved, its size kept
    shrunk    both sides shorter, its centre kept
    grown     both sides longer, its centre kept
    resized   one edge moved in or out: one side is wrong

The box is cut at the image's edge; one whose IoU has left the range by that is drawn again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.audit.dataset import AuditImage
from hindsight.overlap import pairwise_iou

LEAST, MOST = 0.3, 0.8
BANDS = ((0.3, 0.5), (0.5, 0.7), (0.7, 0.8))
KINDS = ("shifted", "shrunk", "grown", "resized")
_TRIES = 50

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plant:
    """In place of annotation `row` of image `image` stands `box` xyxy; iou: with what it replaces."""

    image: int
    row: int
    kind: str
    iou: float
    box: NDArray[np.float32]


def plant(images: Sequence[AuditImage], count: int, seed: int) -> list[Plant]:
    """`count` of the annotations that are judged, each at most once, the same ones for the same seed."""
    rng = np.random.default_rng([seed, count])
    places = [(i, int(row)) for i, image in enumerate(images) for row in np.flatnonzero(image.labels >= 0)]
    planted: list[Plant] = []
    for place in rng.permutation(len(places)):
        if len(planted) == count:
            break
        index, row = places[int(place)]
        made = _wrong_box(images[index].boxes[row], images[index].image_hw, KINDS[len(planted) % 4], rng)
        if made is not None:
            kind = KINDS[len(planted) % 4]
            planted.append(Plant(index, row, kind, made[1], made[0]))
    if len(planted) < count:
        raise ValueError(f"only {len(planted)} of {count} boxes could be planted")
    return planted


def _wrong_box(
    box: NDArray[Any], image_hw: tuple[int, int], kind: str, rng: np.random.Generator
) -> tuple[NDArray[np.float32], float] | None:
    """(box, IoU with the original); None where no try stays in the range."""
    height, width = image_hw
    for _ in range(_TRIES):
        wanted = float(rng.uniform(LEAST, MOST))
        moved = np.clip(
            _changed(box.astype(np.float64), kind, wanted, rng), 0, [width, height, width, height]
        )
        made = moved.astype(np.float32)
        iou = float(pairwise_iou(made[None], box[None])[0, 0])
        if LEAST <= iou < MOST:
            return made, iou
    return None


def _changed(box: Array, kind: str, iou: float, rng: np.random.Generator) -> Array:
    """`box` xyxy changed so that its IoU with what it was is `iou`, before any cut at the image's edge."""
    x1, y1, x2, y2 = box
    width, height = x2 - x1, y2 - y1
    if kind == "shifted":
        covered = 2 * iou / (1 + iou)  # the share of the box that the moved one still covers
        along = rng.uniform(0, 1 - covered)
        shift = np.array([along, 1 - covered / (1 - along)])
        if rng.random() < 0.5:
            shift = shift[::-1]
        shift = shift * rng.choice([-1.0, 1.0], size=2) * [width, height]
        return box + np.tile(shift, 2)
    if kind in ("shrunk", "grown"):
        factor = iou**0.5 if kind == "shrunk" else iou**-0.5
        half = np.array([width, height]) * factor / 2
        centre = np.array([x1 + x2, y1 + y2]) / 2
        return np.concatenate([centre - half, centre + half])
    factor = iou if rng.random() < 0.5 else 1 / iou
    changed = box.copy()
    edge = int(rng.integers(4))
    other = (edge + 2) % 4
    changed[edge] = box[other] + (box[edge] - box[other]) * factor
    return changed
