"""From a mask over its box to pixels of the image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["paste_mask"]


def paste_mask(
    mask: NDArray[np.float32],
    box_xyxy: NDArray[np.float32],
    image_hw: tuple[int, int],
    threshold: float = 0.5,
) -> NDArray[np.bool_]:
    """`mask` [m, m], probabilities over the box, as a bitmap [H, W] of the image: True from `threshold` on.

    Cells are interpolated at the pixels' centres; beyond the outermost centres of cells they stay the same.
    """
    height, width = image_hw
    x1, y1, x2, y2 = (float(value) for value in box_xyxy)
    bitmap = np.zeros((height, width), np.bool_)
    top, down = _weights(y1, y2, height, mask.shape[0])
    left, across = _weights(x1, x2, width, mask.shape[1])
    cells = down @ mask @ across.T
    bitmap[top : top + len(down), left : left + len(across)] = cells >= threshold
    return bitmap


def _weights(low: float, high: float, side: int, cells: int) -> tuple[int, NDArray[np.float64]]:
    """(first pixel whose centre lies between low and high, [pixels, cells]: what each is made of)."""
    first, end = (min(max(math.ceil(edge - 0.5), 0), side) for edge in (low, high))
    centres = (np.arange(first, end) + 0.5 - low) / max(high - low, 1e-9) * cells - 0.5
    centres = np.clip(centres, 0, cells - 1)
    return first, np.maximum(1 - np.abs(centres[:, None] - np.arange(cells)), 0)
