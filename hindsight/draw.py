"""Detections drawn on their image."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from hindsight.detections import Detections
from hindsight.manifest import ClassInfo

__all__ = ["annotate", "palette"]

Rectangle = tuple[float, float, float, float]  # xyxy

_TINT = 0.4  # share of the class's colour over a mask
_BRIGHT = 140  # luma 0..255 from which black text reads better than white


def annotate(image: NDArray[np.uint8], found: Detections, classes: tuple[ClassInfo, ...]) -> Image.Image:
    """A copy of `image` uint8 [H, W, 3] with each box in its class's colour: label, score and predicted IoU.

    Masks, where there are some, tint their pixels. Weak boxes are drawn first, so that the strongest lie on
    top, and texts after all boxes, each where it hides least of those that are stronger.
    """
    colours = [classes[label].colour for label in found.labels]
    canvas = Image.fromarray(_tinted(image, found, colours) if found.has_masks else image)
    draw = ImageDraw.Draw(canvas)
    # Line and letters that read the same on a thumbnail and on a 20-megapixel photo.
    short = min(canvas.size)
    line, font = max(1, round(short / 250)), ImageFont.load_default(max(10, round(short / 40)))
    for row in range(len(found) - 1, -1, -1):
        x1, y1, x2, y2 = (float(value) for value in found.boxes[row])
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        draw.rectangle(corners, outline=colours[row], width=line)
    taken = np.zeros((len(found), 4))
    for row in range(len(found)):
        text = f"{classes[found.labels[row]].name} {found.scores[row]:.2f}"
        if found.ious is not None:
            text += f"  IoU {found.ious[row]:.2f}"
        _, _, width, height = draw.textbbox((0, 0), text, font=font)
        size = (width + 2 * line, height + 2 * line)
        place = _free_place(found.boxes[row], size, canvas.size, taken[:row])
        taken[row] = place
        draw.rectangle(place, fill=colours[row])
        draw.text((place[0] + line, place[1] + line), text, fill=_readable_on(colours[row]), font=font)
    return canvas


def palette(count: int) -> list[str]:
    """`count` colours "#rrggbb" that differ: hues a golden angle apart, in three brightnesses. A class has
    the same one however many there are.
    """
    colours = []
    for index in range(count):
        hue, value = (0.02 + index * 0.618034) % 1, (0.95, 0.8, 0.65)[index // 8 % 3]
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.75, value))
        colours.append(f"#{red:02x}{green:02x}{blue:02x}")
    return colours


def _tinted(image: NDArray[np.uint8], found: Detections, colours: list[str]) -> NDArray[np.uint8]:
    tinted = image.copy()
    for row in range(len(found) - 1, -1, -1):
        covered = found.bitmap(row)
        colour = np.array(ImageColor.getrgb(colours[row])[:3])
        tinted[covered] = ((1 - _TINT) * image[covered] + _TINT * colour).astype(np.uint8)
    return tinted


def _free_place(
    box: NDArray[np.float32], size: tuple[float, float], canvas: tuple[int, int], taken: NDArray[np.float64]
) -> Rectangle:
    """Where a text of `size` (width, height) goes: above the box, below it, or inside along an edge.

    The place inside the canvas that overlaps least with those `taken`, [n, 4]; of equals the first.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    width, height = size
    rated: list[tuple[bool, float, Rectangle]] = []
    for y in (y1 - height, y2, y1, y2 - height):
        for x in (x1, x2 - width):
            left = max(0.0, min(x, canvas[0] - width))
            top = max(0.0, min(y, canvas[1] - height))
            place = (left, top, left + width, top + height)
            # pushed up or down into the canvas it would stand apart from its box
            rated.append((top != y, _overlap(place, taken), place))
    return min(rated, key=lambda entry: entry[:2])[2]


def _overlap(place: Rectangle, taken: NDArray[np.float64]) -> float:
    """Square pixels that it shares with all those [n, 4] together."""
    shared = np.minimum(place[2:], taken[:, 2:]) - np.maximum(place[:2], taken[:, :2])
    return float(np.maximum(shared, 0).prod(axis=1).sum())


def _readable_on(colour: str) -> str:
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue >= _BRIGHT else "white"
