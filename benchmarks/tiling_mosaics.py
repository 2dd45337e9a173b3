"""Large images of known content: boards of deeppcb side by side, and what is to be found on them."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hindsight.api import read_image

__all__ = ["Mosaic", "mosaics"]

BOARD = 640  # pixels a side
SIDE = 2000
_ACROSS = 4  # boards: 2560 pixels, of which 2000 are cut out


@dataclass(frozen=True, eq=False)
class Mosaic:
    """pixels: uint8 [2000, 2000, 3]. boxes: float32 [g, 4] xyxy, clipped to it; labels: int64 [g]. clipped:
    bool [g], objects cut by the mosaic's own border: what is right for those nobody can say, so they count
    neither for nor against.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    clipped: NDArray[np.bool_]


def mosaics(annotations: Path, count: int, *, aligned: bool, seed: int = 0) -> Iterator[Mosaic]:
    """`count` mosaics of 4 x 4 boards, no board twice, the same ones for every `aligned`.

    aligned: cut out at the boards' own corner, so that tiles of 640 without overlap end where boards do.
    Else at a place drawn at random, and edges of tiles cut objects.
    """
    document = json.loads(annotations.read_text(encoding="utf-8"))
    objects = defaultdict(list)
    for entry in document["annotations"]:
        objects[entry["image_id"]].append(entry)
    labels = {entry["id"]: label for label, entry in enumerate(document["categories"])}
    boards = list(document["images"])
    rng = random.Random(seed)
    rng.shuffle(boards)
    for number in range(count):
        chosen = boards[number * _ACROSS**2 : (number + 1) * _ACROSS**2]
        offset = [rng.randrange(1, BOARD * _ACROSS - SIDE) for _ in range(2)]  # drawn in any case
        x0, y0 = (0, 0) if aligned else offset
        sheet = np.zeros((BOARD * _ACROSS, BOARD * _ACROSS, 3), np.uint8)
        boxes, numbers = [], []
        for place, board in enumerate(chosen):
            x, y = place % _ACROSS * BOARD, place // _ACROSS * BOARD
            sheet[y : y + BOARD, x : x + BOARD] = read_image(
                annotations.parent / "images" / board["file_name"]
            )
            for entry in objects[board["id"]]:
                left, top, width, height = entry["bbox"]
                boxes.append([x + left, y + top, x + left + width, y + top + height])
                numbers.append(labels[entry["category_id"]])
        there = np.array(boxes, np.float32).reshape(-1, 4) - np.array([x0, y0, x0, y0], np.float32)
        clipped = np.clip(there, 0, SIDE)
        visible = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
        yield Mosaic(
            sheet[y0 : y0 + SIDE, x0 : x0 + SIDE].copy(),
            clipped[visible],
            np.array(numbers, np.int64)[visible],
            (clipped != there).any(axis=1)[visible],
        )
