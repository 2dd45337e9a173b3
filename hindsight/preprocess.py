"""From encoded bytes to the letterboxed pixels a model takes, and boxes between the two coordinate systems.

Training, the library, the CLI and the service all come through here, so a model sees at work what it saw
while it learned.

H, W: image height and width in pixels. Boxes are [n, 4] xyxy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from hindsight.decode import ImageLimits, decode_image
from hindsight.manifest import ResizeRule

__all__ = [
    "ImageLimits",
    "Letterboxed",
    "Placed",
    "Placement",
    "boxes_to_input",
    "boxes_to_original",
    "decode_image",
    "letterbox",
    "padded_hw",
    "scaled_hw",
]


@dataclass(frozen=True)
class Letterboxed:
    """An image scaled to a ResizeRule, top-left, zeros to the right and below.

    image: uint8 [H, W, 3], H and W multiples of pad_multiple. valid_hw: its real part. original_hw: the size
    before.
    """

    image: NDArray[np.uint8]
    valid_hw: tuple[int, int]
    original_hw: tuple[int, int]


class Placed(Protocol):
    """What boxes need to know of a letterboxed image: `Letterboxed`, or `Placement` where somebody else has
    the pixels.
    """

    @property
    def valid_hw(self) -> tuple[int, int]:
        """The size of its real part."""
        ...

    @property
    def original_hw(self) -> tuple[int, int]:
        """The size before."""
        ...


@dataclass(frozen=True)
class Placement:
    """A letterboxed image without its pixels."""

    valid_hw: tuple[int, int]
    original_hw: tuple[int, int]


def letterbox(image: NDArray[np.uint8], rule: ResizeRule) -> Letterboxed:
    """Scale `image` uint8 [H, W, 3] to `rule` and pad it. The result depends on this image alone, never on
    its batch.
    """
    height, width = image.shape[:2]
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or height < 1 or width < 1:
        raise ValueError(f"expected uint8 [H, W, 3] with H, W >= 1, got {image.dtype} {list(image.shape)}")
    valid_h, valid_w = scaled_hw((height, width), rule)
    if (valid_h, valid_w) == (height, width):
        scaled = image
    else:
        # Pillow's bilinear widens its support when reducing, so it does not alias.
        scaled = np.asarray(Image.fromarray(image).resize((valid_w, valid_h), Image.Resampling.BILINEAR))
    padded_h, padded_w = padded_hw((valid_h, valid_w), rule)
    if (padded_h, padded_w) == (valid_h, valid_w):
        padded = np.ascontiguousarray(scaled)
    else:
        padded = np.zeros((padded_h, padded_w, 3), np.uint8)
        padded[:valid_h, :valid_w] = scaled
    return Letterboxed(padded, (valid_h, valid_w), (height, width))


def scaled_hw(original_hw: tuple[int, int], rule: ResizeRule) -> tuple[int, int]:
    """The size, each side at least 1, that `letterbox` scales an image of `original_hw` to."""
    scale = min(rule.short_side / min(original_hw), rule.long_side / max(original_hw))
    height, width = (max(1, round(side * scale)) for side in original_hw)
    return height, width


def padded_hw(valid_hw: tuple[int, int], rule: ResizeRule) -> tuple[int, int]:
    """The sides, multiples of pad_multiple, that `letterbox` pads a scaled image to."""
    height, width = (-(-side // rule.pad_multiple) * rule.pad_multiple for side in valid_hw)
    return height, width


def boxes_to_original(boxes_xyxy: ArrayLike, lb: Placed) -> NDArray[np.float32]:
    """[n, 4] input pixels -> [n, 4] pixels of the original image, clipped to it."""
    height, width = lb.original_hw
    boxes = _as_boxes(boxes_xyxy) / _input_per_original(lb)
    limits = np.array([width, height, width, height], np.float64)
    return np.clip(boxes, 0, limits).astype(np.float32)


def boxes_to_input(boxes_xyxy: ArrayLike, lb: Placed) -> NDArray[np.float32]:
    """[n, 4] pixels of the original image -> [n, 4] input pixels."""
    return (_as_boxes(boxes_xyxy) * _input_per_original(lb)).astype(np.float32)


def _as_boxes(boxes_xyxy: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(boxes_xyxy, np.float64).reshape(-1, 4)


def _input_per_original(lb: Placed) -> NDArray[np.float64]:
    # Per axis, because rounding a side to whole pixels changes its own scale only.
    y, x = (valid / original for valid, original in zip(lb.valid_hw, lb.original_hw, strict=True))
    return np.array([x, y, x, y])
