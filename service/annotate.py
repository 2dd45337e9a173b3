"""A picture with its detections drawn on it, encoded."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hindsight.detections import Detections
from hindsight.manifest import Manifest


def annotated(image: NDArray[np.uint8], detections: Detections, manifest: Manifest, kind: str) -> bytes:
    """`image` uint8 [H, W, 3] with each box in its class's colour under "label score | IoU"; `kind`: "JPEG"
    or "PNG".
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    size = max(10, round(min(picture.size) / 40))
    font = ImageFont.load_default(size)
    line = max(1, size // 6)
    colours = {info.name: info.colour for info in manifest.classes}
    for record in reversed(detections.to_records()):  # the best last, on top
        x1, y1, x2, y2 = record["box"]
        colour = colours[record["label"]]
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)
        text = f"{record['label']} {record['score']:.2f}"
        if record["iou"] is not None:
            text += f" | IoU {record['iou']:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        width, height = right - left + 4, bottom - top + 4
        corner_x = max(0.0, min(x1, picture.width - width))
        corner_y = y1 - height if y1 >= height else min(y1, picture.height - height)
        draw.rectangle((corner_x, corner_y, corner_x + width, corner_y + height), fill=colour)
        draw.text((corner_x + 2 - left, corner_y + 2 - top), text, fill=_ink(colour), font=font)
    stream = io.BytesIO()
    picture.save(stream, kind, **({"quality": 92} if kind == "JPEG" else {"compress_level": 3}))
    return stream.getvalue()


def _ink(colour: str) -> str:
    """Black or white, whichever reads better on `colour` (#rrggbb)."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#000000" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"
