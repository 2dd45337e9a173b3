"""One image with its annotations.

Shapes: H, W the image's height and width in pixels; n its annotated boxes.
Boxes are xyxy in continuous pixel coordinates: the image spans [0, W] x [0, H], a box covers x_max - x_min
pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hindsight.datasets.shapes import Shape


@dataclass(frozen=True, eq=False)
class Sample:
    """An image of the set and its boxes; `image` is None where only the annotations were asked for."""

    image: NDArray[np.uint8] | None  # [H, W, 3] RGB
    boxes: NDArray[np.float32]  # [n, 4] xyxy, original pixels
    labels: NDArray[np.int64]  # [n], index into the set's class_names
    crowd: NDArray[np.bool_]  # [n], True: neither object nor background (COCO crowd, VOC difficult)
    area: NDArray[np.float32]  # [n], annotated area in original pixels: decides small / medium / large
    image_id: int
    path: Path
    shapes: tuple[Shape, ...] | None = None  # n; None where the set was opened without masks
    semantic: NDArray[np.uint8] | None = None  # [H, W] class of each pixel, 255 for none; comes with pixels

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The image [H, W, 3]. Raises ValueError on a sample without pixels."""
        if self.image is None:
            raise ValueError(f"{self.path}: this sample holds annotations only")
        return self.image
