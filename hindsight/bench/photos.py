"""The photos that are sent: a folder's, the model's own samples, or made up ones of given sizes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageDraw, UnidentifiedImageError

from hindsight.bench.target import Server, ask
from hindsight.decode import IMAGE_SUFFIXES
from hindsight.errors import OptionError

__all__ = ["Photo", "folder_photos", "made_photos", "make_photo", "sample_photos", "sizes_of"]

_MOST = 256  # photos of a folder
_MOST_BYTES = 256 * 2**20
_EACH_SIZE = 4  # different made up photos of one size
_LARGEST_SIDE = 20_000
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Photo:
    """An encoded photo; `width` and `height` in pixels, upright."""

    data: bytes
    media_type: str
    width: int
    height: int


def folder_photos(folder: Path) -> list[Photo]:
    """The photos in `folder` (not below it), by name, at most 256 of them. Raises OptionError."""
    if not folder.is_dir():
        raise OptionError(f"--photos takes a folder of photos; {folder} is {_what(folder)}")
    photos, total = list[Photo](), 0
    for path in sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES):
        try:
            photos.append(_read(path.read_bytes()))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise OptionError(f"{path} cannot be read as a photo ({type(error).__name__})") from error
        total += len(photos[-1].data)
        if len(photos) == _MOST or total > _MOST_BYTES:
            break
    if not photos:
        raise OptionError(f"no photos in {folder}: looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
    return photos


def _what(path: Path) -> str:
    return "a file" if path.is_file() else "not there"


async def sample_photos(server: Server, headers: dict[str, str]) -> list[Photo]:
    """The sample images of the server's model; none where it has none. Raises ServiceError."""
    photos = []
    for name in server.model.get("samples", []):
        path = f"/models/{quote(str(server.model['name']), safe='')}/samples/{quote(str(name), safe='')}"
        answer = await ask(server.address, "GET", path, headers)
        if answer.status == 200:
            photos.append(_read(answer.body))
    return photos


def made_photos(sizes: Sequence[tuple[int, int]], seed: int) -> list[Photo]:
    """JPEGs of these sizes (width, height), four of each, one size after the other in turn. The same seed
    makes the same bytes.
    """
    return [make_photo(size, seed, number) for number in range(_EACH_SIZE) for size in sizes]


def make_photo(size: tuple[int, int], seed: int, number: int = 0) -> Photo:
    """Blobs on a gradient under a sensor's noise: a JPEG as large as a photo's of that size is. Another
    number is another photo. Raises OptionError.
    """
    width, height = size
    if not (1 <= width <= _LARGEST_SIDE and 1 <= height <= _LARGEST_SIDE):
        raise OptionError(f"a photo's sides are 1 to {_LARGEST_SIDE} pixels, got {width}x{height}")
    rng = np.random.default_rng([seed, number, width, height])
    top, bottom = rng.integers(90, 230, (2, 3))
    share = np.linspace(0, 1, height)[:, None, None]
    pixels = np.broadcast_to((1 - share) * top + share * bottom, (height, width, 3)).astype(np.uint8)
    canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    radius = max(2, min(size) // 16)
    for x, y in rng.integers(0, (width, height), (40, 2)).tolist():
        colour = tuple(rng.integers(30, 220, 3).tolist())
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=colour[::-1])
    noise = rng.normal(0, 4, (height, width, 1))
    noisy = np.clip(np.asarray(canvas, np.float32) + noise, 0, 255).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "JPEG", quality=90)
    return Photo(stream.getvalue(), "image/jpeg", width, height)


def sizes_of(photos: Sequence[Photo]) -> dict[str, int]:
    """WIDTHxHEIGHT -> how many."""
    sizes: dict[str, int] = {}
    for photo in photos:
        key = f"{photo.width}x{photo.height}"
        sizes[key] = sizes.get(key, 0) + 1
    return sizes


def _read(data: bytes) -> Photo:
    with Image.open(io.BytesIO(data)) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION, 1) >= 5:  # lies on its side
            width, height = height, width
        return Photo(data, Image.MIME.get(image.format or "", "application/octet-stream"), width, height)
