"""The part of an image around a finding, as a small JPEG."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from hindsight.api import read_image
from hindsight.audit.dataset import AuditImage
from hindsight.errors import HindsightError, OptionError
from hindsight.whole_files import whole_file

__all__ = ["FOLDER", "Frame", "frame_around", "picture_name", "remove_others", "write_pictures"]

FOLDER = "pictures"
Frame = tuple[int, int, int, int]  # xyxy, whole pixels of the original image
Box = Sequence[float]

_MARGIN = 0.35  # of the boxes' longer side, on every side
_LEAST = 48  # pixels
_ASPECT = 4 / 3  # of the cards they are shown in
_LONG_SIDE = 480
_QUALITY = 85
_OURS = re.compile(r"[0-9a-f]{12}(-\d+){4}\.jpg")  # as picture_name has it


def frame_around(boxes: Iterable[Box], image_hw: tuple[int, int]) -> Frame:
    """What to show of an image of `image_hw`: the boxes and what is around them, in a card's shape where the
    image has room for it.
    """
    rows = [[float(value) for value in box] for box in boxes]
    x1, y1 = min(row[0] for row in rows), min(row[1] for row in rows)
    x2, y2 = max(row[2] for row in rows), max(row[3] for row in rows)
    margin = _MARGIN * max(x2 - x1, y2 - y1)
    width, height = max(_LEAST, x2 - x1 + 2 * margin), max(_LEAST, y2 - y1 + 2 * margin)
    width, height = max(width, height * _ASPECT), max(height, width / _ASPECT)
    left, right = _span((x1 + x2) / 2, width, image_hw[1])
    top, bottom = _span((y1 + y2) / 2, height, image_hw[0])
    return left, top, right, bottom


def picture_name(image: AuditImage, frame: Frame) -> str:
    """The file's name says what is in it, so one that is there need not be made again."""
    return f"{image.signature[:12]}-{'-'.join(str(side) for side in frame)}.jpg"


def write_pictures(
    folder: Path,
    wanted: Iterable[tuple[AuditImage, Frame]],
    workers: int,
    advance: Callable[[], None],
) -> None:
    """Those of the `wanted` that are not there yet; each image is decoded once. advance: called once an
    image.

    An image that went away meanwhile has none. Raises OptionError where the folder cannot be written.
    """
    by_image: dict[str, tuple[AuditImage, list[Frame]]] = {}
    for image, frame in wanted:  # a set may list an image twice: its pictures are the same files
        by_image.setdefault(image.signature, (image, []))[1].append(frame)

    def write(image: AuditImage, frames: list[Frame]) -> None:
        try:
            _write(folder, image, frames)
        except HindsightError:  # the image: it could be read a moment ago
            return

    try:
        folder.mkdir(exist_ok=True)
        with ThreadPoolExecutor(workers, thread_name_prefix="pictures") as pool:
            for future in [pool.submit(write, *each) for each in by_image.values()]:
                future.result()
                advance()
    except OSError as error:
        raise OptionError(f"{folder} cannot be written ({error.strerror})") from error


def remove_others(folder: Path, names: Iterable[str]) -> None:
    """Pictures of an earlier report that this one does not show; whatever else is there stays."""
    kept = set(names)
    for file in folder.glob("*.jpg"):
        if file.name not in kept and _OURS.fullmatch(file.name):
            file.unlink(missing_ok=True)


def _write(folder: Path, image: AuditImage, frames: list[Frame]) -> None:
    missing = {frame: folder / picture_name(image, frame) for frame in frames}
    missing = {frame: file for frame, file in missing.items() if not file.exists()}
    if not missing:
        return
    whole = Image.fromarray(read_image(image.path))
    for frame, file in missing.items():
        part = whole.crop(frame)
        part.thumbnail((_LONG_SIDE, _LONG_SIDE))
        with whole_file(file) as draft:
            part.save(draft, "JPEG", quality=_QUALITY)


def _span(centre: float, length: float, most: int) -> tuple[int, int]:
    """`length` around `centre`, moved and cut to lie in 0..most."""
    length = min(length, most)
    start = min(max(centre - length / 2, 0), most - length)
    first = int(start)
    return first, max(first + 1, min(most, round(start + length)))
