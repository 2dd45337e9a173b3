"""Masks in the form that COCO's evaluation takes them: run-length codes and polygons of the whole image.

n: detections. H, W: the original image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.datasets.shapes import Shape
from hindsight.masks import encode_bitmap, encode_mask

Segmentation = dict[str, Any] | list[list[float]]


def encode_masks(
    masks: NDArray[np.float32], boxes: NDArray[np.float32], image_hw: tuple[int, int]
) -> tuple[Segmentation, ...]:
    """Run-length codes of masks [n, m, m] over boxes [n, 4], pasted into the image at probability .5."""
    return tuple(encode_mask(mask, box, image_hw) for mask, box in zip(masks, boxes, strict=True))


def segmentation_of(shape: Shape, box: NDArray[np.float32], image_hw: tuple[int, int]) -> Segmentation:
    """An annotated shape: polygons as they were annotated, so that they cover what they do elsewhere.

    What has no shape, as a crowd may, covers its box.
    """
    if shape.rings:
        # The decimals that were written, not the float32 nearest to them: outlines are traced with ties.
        return [[float(str(value)) for value in ring.ravel()] for ring in shape.rings]
    if not len(shape.boxes):
        x1, y1, x2, y2 = (float(value) for value in box)
        return [[x1, y1, x2, y1, x2, y2, x1, y2]]
    bitmap, (left, top, _, _) = shape.bitmap(image_hw)
    return encode_bitmap(bitmap == 1, top, left, image_hw)
