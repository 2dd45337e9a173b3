"""Detections drawn on their image."""

from __future__ import annotations

import colorsys
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from hindsight.detections import Detections
from hindsight.manifest import ClassInfo

__all__ = ["annotate", "palette"]

Rectangle = tuple[float, float, float, float]  # xyxy

_TINT = 0.4  # share of the class's colour over a mask
_BRIGHT = 140  # luma 0..255 from which black text reads better than white
_LINE = 0.16  # a line's width, as a share of the letters' height
_LEAST_LETTERS = 10  # pixels
_HIDDEN = 0.25  # share of a box from which it counts as hidden
_NO_BOXES = np.zeros((0, 4), np.float32)
_MOST_TEXT = 0.12  # share of the picture that texts may cover, if their letters can be made smaller


def annotate(image: NDArray[np.uint8], found: Detections, classes: tuple[ClassInfo, ...]) -> Image.Image:
    """A copy of `image` uint8 [H, W, 3] with each box in its class's colour: label, score and predicted IoU.

    Masks, where there are some, tint their pixels. Weak boxes are drawn first, so that the strongest lie on
    top, and texts after all boxes, each where it hides least of those that are stronger.
    """
    colours = [classes[label].colour for label in found.labels]
    canvas = Image.fromarray(_tinted(image, found, colours) if found.has_masks else image)
    draw = ImageDraw.Draw(canvas)
    texts = [_text(found, row, classes) for row in range(len(found))]
    letters = _letters(draw, texts, canvas.size)
    line, font = max(1, round(_LINE * letters)), ImageFont.load_default(letters)
    for row in range(len(found) - 1, -1, -1):
        x1, y1, x2, y2 = (float(value) for value in found.boxes[row])
        corners = (x1, y1, max(x1, x2 - 1), max(y1, y2 - 1))
        draw.rectangle(corners, outline=colours[row], width=line)
    taken = np.zeros((len(found), 4))
    for row in range(len(found)):
        _, _, width, height = draw.textbbox((0, 0), texts[row], font=font)
        size = (width + 2 * line, height + 2 * line)
        place = _free_place(found.boxes[row], size, canvas.size, taken[:row], found.boxes)
        taken[row] = place
        draw.rectangle(place, fill=colours[row])
        draw.text((place[0] + line, place[1] + line), texts[row], fill=_readable_on(colours[row]), font=font)
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


def _text(found: Detections, row: int, classes: tuple[ClassInfo, ...]) -> str:
    text = f"{classes[found.labels[row]].name} {found.scores[row]:.2f}"
    return text if found.ious is None else f"{text}  IoU {found.ious[row]:.2f}"


def _letters(draw: ImageDraw.ImageDraw, texts: list[str], canvas: tuple[int, int]) -> int:
    """Their height in pixels: the same to the eye on a thumbnail and on a 20-megapixel photo, and smaller
    where there are so many texts that they would hide the picture.
    """
    letters = max(_LEAST_LETTERS, round(min(canvas) / 40))
    font = ImageFont.load_default(letters)
    covered = sum(draw.textlength(text, font=font) for text in texts) * letters / (canvas[0] * canvas[1])
    if covered > _MOST_TEXT:
        letters = max(_LEAST_LETTERS, round(letters * math.sqrt(_MOST_TEXT / covered)))
    return letters


def _tinted(image: NDArray[np.uint8], found: Detections, colours: list[str]) -> NDArray[np.uint8]:
    tinted = image.copy()
    for row in range(len(found) - 1, -1, -1):
        covered = found.bitmap(row)
        colour = np.array(ImageColor.getrgb(colours[row])[:3])
        tinted[covered] = ((1 - _TINT) * image[covered] + _TINT * colour).astype(np.uint8)
    return tinted


def _free_place(
    box: NDArray[np.float32],
    size: tuple[float, float],
    canvas: tuple[int, int],
    taken: ArrayLike,
    boxes: NDArray[np.float32] = _NO_BOXES,
) -> Rectangle:
    """Where a text of `size` (width, height) goes: above the box, below it, or inside along an edge.

    The place inside the canvas that hides least: of the texts that are `taken` [m, 4], by area, and of
    `boxes` [n, 4], by the share of each, so that small ones are spared and large ones do not matter. Of
    equals the first.
    """
    x1, y1, x2, y2 = (float(value) for value in box)
    width, height = size
    apart: list[bool] = []  # pushed up or down into the canvas it would stand apart from its box
    places: list[Rectangle] = []
    for y in (y1 - height, y2, y1, y2 - height):
        for x in (x1, x2 - width):
            left = max(0.0, min(x, canvas[0] - width))
            top = max(0.0, min(y, canvas[1] - height))
            apart.append(top != y)
            places.append((left, top, left + width, top + height))
    corners = np.array(places)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    shares = _shared(corners, boxes) / np.maximum(areas, 1)
    hidden = np.where(shares >= _HIDDEN, shares, 0).sum(axis=1)
    texts = _shared(corners, np.asarray(taken, np.float64).reshape(-1, 4)).sum(axis=1)
    costs = texts + width * height * hidden
    return places[min(range(len(places)), key=lambda place: (apart[place], costs[place]))]


def _shared(places: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """[p, 4] and [n, 4] -> [p, n] square pixels that they share."""
    ours, theirs = places.T[:, :, None], others.T[:, None, :]
    width = np.minimum(ours[2], theirs[2]) - np.maximum(ours[0], theirs[0])
    height = np.minimum(ours[3], theirs[3]) - np.maximum(ours[1], theirs[1])
    shared: NDArray[Any] = np.maximum(width, 0) * np.maximum(height, 0)
    return shared


def _readable_on(colour: str) -> str:
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue >= _BRIGHT else "white"
