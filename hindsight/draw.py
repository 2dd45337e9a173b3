"""Detections drawn on their image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from hindsight.detections import Detections
from hindsight.manifest import ClassInfo

__all__ = ["annotate"]

_BRIGHT = 140  # luma 0..255 from which black text reads better than white


def annotate(image: NDArray[np.uint8], found: Detections, classes: tuple[ClassInfo, ...]) -> Image.Image:
    """A copy of `image` uint8 [H, W, 3] with each box in its class's colour: label, score and predicted IoU.

    Weak boxes are drawn first, so that the strongest lie on top.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    # Line and letters that read the same on a thumbnail and on a 20-megapixel photo.
    short = min(canvas.size)
    line, font = max(1, round(short / 250)), ImageFont.load_default(max(10, round(short / 40)))
    for row in range(len(found) - 1, -1, -1):
        info = classes[found.labels[row]]
        x1, y1, x2, y2 = (float(value) for value in found.boxes[row])
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=info.colour, width=line)
        text = f"{info.name} {found.scores[row]:.2f}"
        if found.ious is not None:
            text += f"  IoU {found.ious[row]:.2f}"
        _, _, width, height = draw.textbbox((0, 0), text, font=font)
        left = max(0.0, min(x1, canvas.width - width - 2 * line))
        top = y1 - height - 2 * line if y1 >= height + 2 * line else y1
        draw.rectangle((left, top, left + width + 2 * line, top + height + 2 * line), fill=info.colour)
        draw.text((left + line, top + line), text, fill=_readable_on(info.colour), font=font)
    return canvas


def _readable_on(colour: str) -> str:
    red, green, blue = ImageColor.getrgb(colour)[:3]
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue >= _BRIGHT else "white"
