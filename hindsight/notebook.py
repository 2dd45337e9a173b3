"""What a notebook shows of Detections: the picture with its boxes, where the image can still be had, and a
table. Class names come from models and servers that may be anybody's, so every text is escaped.
"""

from __future__ import annotations

import base64
import io
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hindsight.detections import Detections
from hindsight.draw import annotate, palette
from hindsight.errors import ImageError
from hindsight.manifest import ClassInfo
from hindsight.picture import ImageLike

__all__ = ["html_of", "image_of", "jpeg_of", "plot"]

_LONGEST_SIDE = 900  # pixels of the picture: a notebook is a file that holds each of them
_MOST_ROWS = 30
_COLUMNS = {
    "score": "score",
    "class_score": "class score",
    "iou": "IoU",
    "purity": "purity",
    "integrity": "integrity",
}


def plot(found: Detections, image: ImageLike | None) -> Image.Image:
    """Detections.plot."""
    pixels = image_of(found if image is None else found.with_image(image))
    if pixels is None:
        raise ImageError(
            "these detections know no image, or it is gone: give it, as in found.plot('photo.jpg')"
        )
    colours = palette(len(found.class_names))
    classes = tuple(ClassInfo(name, colour) for name, colour in zip(found.class_names, colours, strict=True))
    return annotate(pixels, found, classes)


def image_of(found: Detections) -> NDArray[np.uint8] | None:
    """Detections.image. Raises ImageError where it cannot be read, or has another size than it had."""
    from hindsight.api import read_image

    image = None if found.picture is None else found.picture.image()
    if image is None:
        return None
    pixels = read_image(image)
    if pixels.shape[:2] != found.image_hw:
        (height, width), (right_height, right_width) = pixels.shape[:2], found.image_hw
        raise ImageError(
            f"expected the image that was searched, {right_width} x {right_height}, got {width} x {height}"
        )
    return pixels


def jpeg_of(found: Detections) -> bytes | None:
    """The picture, at most 900 pixels a side; None where the image cannot be had."""
    try:
        if found.picture is None or found.picture.image() is None:
            return None
        drawn = plot(found, None)
    except ImageError:  # moved or changed since: the table is still right
        return None
    drawn.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    stream = io.BytesIO()
    drawn.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def html_of(found: Detections) -> str:
    """The picture, if there is one, above a table of the best boxes."""
    picture = jpeg_of(found)
    shown = ""
    if picture is not None:
        data = base64.b64encode(picture).decode("ascii")
        shown = (
            f'<img alt="{escape(repr(found))}" style="max-width:100%" src="data:image/jpeg;base64,{data}">'
        )
    return f"<div><p>{escape(repr(found)[1:-1])}</p>{shown}{_table(found)}</div>"


def _table(found: Detections) -> str:
    if not len(found):
        return ""
    heads = "".join(f"<th>{name}</th>" for name in ("label", *_COLUMNS.values(), "box"))
    colours = palette(len(found.class_names))
    rows = []
    for record in found.select(np.arange(min(len(found), _MOST_ROWS))).to_records():
        swatch = f'<span style="color:{colours[record["label_id"]]}">&#9632;</span>'
        numbers = ("-" if record[key] is None else f"{record[key]:.3f}" for key in _COLUMNS)
        box = ", ".join(f"{value:.1f}" for value in record["box"])
        cells = [f"{swatch} {escape(record['label'])}", *numbers, box]
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    more = len(found) - _MOST_ROWS
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>{rest}"
