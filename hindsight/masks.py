"""From a mask over its box to pixels of the image, and to COCO's code of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_mask", "encode_bitmap", "encode_mask", "mask_area", "paste_mask"]


def paste_mask(
    mask: NDArray[np.float32],
    box_xyxy: NDArray[np.float32],
    image_hw: tuple[int, int],
    threshold: float = 0.5,
) -> NDArray[np.bool_]:
    """`mask` [m, m], probabilities over the box, as a bitmap [H, W] of the image: True from `threshold` on.

    Cells are interpolated at the pixels' centres; beyond the outermost centres of cells they stay the same.
    """
    covered, top, left = _covered(mask, box_xyxy, image_hw, threshold)
    bitmap = np.zeros(image_hw, np.bool_)
    bitmap[top : top + covered.shape[0], left : left + covered.shape[1]] = covered
    return bitmap


def encode_mask(
    mask: NDArray[np.float32],
    box_xyxy: NDArray[np.float32],
    image_hw: tuple[int, int],
    threshold: float = 0.5,
) -> dict[str, Any]:
    """What `paste_mask` gives as COCO's compressed run-length code: {"size": [H, W], "counts": "..."}.

    Takes memory and time for the box alone, however large the image.
    """
    return encode_bitmap(*_covered(mask, box_xyxy, image_hw, threshold), image_hw)


def encode_bitmap(
    bitmap: NDArray[np.bool_], top: int, left: int, image_hw: tuple[int, int]
) -> dict[str, Any]:
    """COCO's compressed run-length code of an image that is False but for `bitmap` [h, w], which lies within
    it: its first row is the image's row `top`, its first column the image's column `left`.
    """
    height, width = image_hw
    # Runs go down the columns; a run ends where its column does, unless the next one begins right there.
    edges = np.diff(np.pad(bitmap.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = (_positions(edges == sign, top, left, height) for sign in (1, -1))
    apart = starts[1:] != ends[:-1]
    starts, ends = starts[np.append(True, apart)[: len(starts)]], ends[np.append(apart, True)[: len(ends)]]
    bounds = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(bounds, prepend=0, append=height * width).tolist()
    if counts[-1] == 0:
        counts.pop()
    return {"size": [height, width], "counts": _compressed(counts)}


def decode_mask(code: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The bitmap [H, W] of COCO's compressed run-length code, as `encode_mask` and pycocotools write it.

    Raises ValueError for what is no such code.
    """
    try:
        height, width = (int(side) for side in code["size"])
        counts = _expanded(code["counts"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f'expected {{"size": [height, width], "counts": text}} ({error})') from None
    if height < 0 or width < 0 or sum(counts) != height * width:
        raise ValueError(f"the runs cover {sum(counts)} pixels, the image has {height} x {width}")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def mask_area(code: Mapping[str, Any]) -> int:
    """How many pixels such a code covers. Raises ValueError for what is none."""
    try:
        return sum(_expanded(code["counts"])[1::2])
    except (KeyError, TypeError) as error:
        raise ValueError(f'expected {{"size": [height, width], "counts": text}} ({error})') from None


def _covered(
    mask: NDArray[np.float32], box_xyxy: NDArray[np.float32], image_hw: tuple[int, int], threshold: float
) -> tuple[NDArray[np.bool_], int, int]:
    """(bitmap of the pixels whose centres lie in the box, its top, its left)."""
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    top, down = _weights(y1, y2, image_hw[0], mask.shape[0])
    left, across = _weights(x1, x2, image_hw[1], mask.shape[1])
    return down @ mask @ across.T >= threshold, top, left


def _positions(marks: NDArray[np.bool_], top: int, left: int, height: int) -> NDArray[np.int64]:
    """Where the marks [columns, rows] stand in an image counted down its columns."""
    columns, rows = np.nonzero(marks)
    return (columns + left) * height + rows + top


def _compressed(counts: list[int]) -> str:
    """COCO's string: five bits a character, lowest first, the sixth says that the number goes on; from the
    fourth number on what is coded is the difference to the one before last.
    """
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits = value & 31
            value >>= 5
            done = value == (-1 if bits & 16 else 0)
            text.append(chr((bits if done else bits | 32) + 48))
            if done:
                break
    return "".join(text)


def _expanded(text: str) -> list[int]:
    """What `_compressed` has written. Raises ValueError."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"counts hold {character!r}, which is no part of a code")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        if value < 0:
            raise ValueError("counts hold a run of less than no pixels")
        counts.append(value)
        value = shift = 0
    if shift:
        raise ValueError("counts end within a number")
    return counts


def _weights(low: float, high: float, side: int, cells: int) -> tuple[int, NDArray[np.float64]]:
    """(first pixel whose centre lies between low and high, [pixels, cells]: what each is made of)."""
    first, end = (min(max(math.ceil(edge - 0.5), 0), side) for edge in (low, high))
    centres = (np.arange(first, end) + 0.5 - low) / max(high - low, 1e-9) * cells - 0.5
    centres = np.clip(centres, 0, cells - 1)
    return first, np.maximum(1 - np.abs(centres[:, None] - np.arange(cells)), 0)
