"""Encoded bytes -> RGB pixels, without trusting the bytes.

The format is told by its signature, never by a file name or a declared type, and its reader is called
directly: `PIL.Image.open` would try more formats than we vouch for and apply a pixel limit of its own that is
global to the process. Our limit is checked on the header, before a pixel is decoded, and so is the file's
structure (image_checks.py).

What becomes of unusual images: EXIF orientation is applied; grey is repeated into three channels; alpha (and
a transparent colour) is composited on white; palettes are expanded; CMYK is converted; 16 bits per channel
keep their upper 8; an image of more than one frame (GIF, APNG, WebP, multi-page TIFF) is refused, because the
answer for one of its frames would look like an answer for all.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from hindsight.errors import CorruptImage, ImageTooLarge, UnsupportedImage
from hindsight.image_checks import check_structure

__all__ = [
    "IMAGE_SUFFIXES",
    "Footprint",
    "Header",
    "ImageLimits",
    "decode_image",
    "footprint",
    "pixels_of",
    "read_header",
]


@dataclass(frozen=True)
class ImageLimits:
    """max_bytes: of the encoded file. max_pixels: width x height."""

    max_bytes: int = 50 * 2**20
    max_pixels: int = 50_000_000


DEFAULT_LIMITS = ImageLimits()

# JpegImageFile, unlike Pillow's factory, reads an MPO (two-lens phone photo) as what it starts with: an
# ordinary JPEG.
_READERS: tuple[tuple[str, Callable[[bytes], bool], type[ImageFile.ImageFile]], ...] = (
    ("JPEG", lambda head: head.startswith(b"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    ("PNG", lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    ("WebP", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", WebPImagePlugin.WebPImageFile),
    ("GIF", lambda head: head[:6] in (b"GIF87a", b"GIF89a"), GifImagePlugin.GifImageFile),
    ("BMP", lambda head: head.startswith(b"BM"), BmpImagePlugin.BmpImageFile),
    ("TIFF", lambda head: head[:4] in (b"II*\0", b"MM\0*"), TiffImagePlugin.TiffImageFile),
)
READABLE = ", ".join(name for name, _, _ in _READERS)
# Which files of a folder are taken for images; the bytes decide what they are.
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # those that exchange height and width


def decode_image(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> NDArray[np.uint8]:
    """`data` -> uint8 [H, W, 3] RGB, upright. Raises ImageTooLarge, UnsupportedImage, CorruptImage."""
    name, reader = _reader_of(data, limits)
    return _decode(name, reader, data, limits)


@dataclass(frozen=True)
class Header:
    """What an image says of itself before a pixel is decoded. hw: upright, as `decode_image` would give it.

    format: as in READABLE. mode: Pillow's. orientation: EXIF's, 1 to 8, that is still to be applied; 1 is
    upright.
    """

    format: str
    mode: str
    hw: tuple[int, int]
    orientation: int


def read_header(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Header:
    """For whoever decodes with something else than Pillow. Raises as `decode_image`, broken pixels apart."""
    name, reader = _reader_of(data, limits)
    if name == "TIFF":  # Pillow turns these itself, at a time that depends on its version
        height, width = decode_image(data, limits).shape[:2]
        return Header(name, "RGB", (height, width), 1)
    with _opened(name, reader, data, limits) as image:
        orientation = _orientation(image)
        width, height = image.size
        hw = (width, height) if orientation in _TURNED else (height, width)
        return Header(name, image.mode, hw, orientation if orientation in _UPRIGHT else 1)


@dataclass(frozen=True)
class Footprint:
    """What decoding will take, from the header. hw: as stored, so perhaps turned. working_bytes: the most
    that `decode_image` holds at one time, its result included, the encoded file apart.
    """

    hw: tuple[int, int]
    working_bytes: int


def footprint(data: bytes, limits: ImageLimits = DEFAULT_LIMITS) -> Footprint:
    """For whoever has a budget. Decodes nothing. Raises as `decode_image`, broken pixels apart."""
    name, reader = _reader_of(data, limits)
    with _opened(name, reader, data, limits) as image:
        width, height = image.size
        return Footprint((height, width), width * height * _bytes_per_pixel(name, image))


def pixels_of(image: Image.Image) -> NDArray[np.uint8]:
    """A Pillow image in any mode -> uint8 [H, W, 3] RGB by the rules above (orientation and frames are the
    caller's).
    """
    if image.mode.startswith("I"):
        # 16-bit grey arrives as I;16 or, from some files, as I: both hold 0..65535.
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 65535:
            raise UnsupportedImage("32 bits per channel are not supported; expected 8 or 16")
        return np.repeat((grey >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise UnsupportedImage("floating-point pixels are not supported; expected 8 or 16 bits per channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, rgba)
    # `convert` would copy even where nothing changes.
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _reader_of(data: bytes, limits: ImageLimits) -> tuple[str, type[ImageFile.ImageFile]]:
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {limits.max_bytes} are accepted")
    if not data:
        raise CorruptImage("the image is empty (0 bytes)")
    for name, matches, reader in _READERS:
        if matches(data[:16]):
            check_structure(name, data, limits.max_pixels)
            return name, reader
    raise UnsupportedImage(f"the data does not start like an image; expected one of {READABLE}")


def _decode(
    name: str, reader: type[ImageFile.ImageFile], data: bytes, limits: ImageLimits
) -> NDArray[np.uint8]:
    with _opened(name, reader, data, limits) as image:
        try:
            image.load()
            upright = _upright(image)
            return pixels_of(upright)
        except (UnsupportedImage, MemoryError):
            raise
        except (
            Exception
        ) as error:  # as below: OSError, SyntaxError, ValueError, zlib.error, struct.error, ...
            raise CorruptImage(f"the {name} data is broken or cut short ({_reason(error)})") from error


@contextmanager
def _opened(
    name: str, reader: type[ImageFile.ImageFile], data: bytes, limits: ImageLimits
) -> Iterator[ImageFile.ImageFile]:
    """The image, its header checked."""
    try:
        image = reader(io.BytesIO(data))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # The WebP and GIF readers ask Pillow's own limit, which is above our default, before they allocate.
        raise ImageTooLarge(
            f"the {name} has too many pixels; at most {limits.max_pixels} are accepted"
        ) from error
    except Exception as error:  # Pillow's readers let many kinds of exception escape on broken headers
        raise CorruptImage(f"the {name} header cannot be read ({_reason(error)})") from error
    with image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise ImageTooLarge(
                f"the image is {width} x {height} pixels; at most {limits.max_pixels} in all are accepted"
            )
        if width < 1 or height < 1:
            raise CorruptImage(f"the {name} header gives a size of {width} x {height}")
        if image.mode in ("P", "PA") and image.palette is None:  # Pillow finds out where it needs one
            raise CorruptImage(f"the {name}'s pixels are numbers of colours, and it has no palette")
        if _frames(image) > 1:
            raise UnsupportedImage(f"the {name} has more than one frame; send a single still image")
        yield image


def _frames(image: ImageFile.ImageFile) -> int:
    try:
        return 2 if getattr(image, "is_animated", False) else 1
    except Exception as error:  # looking for a second frame reads on into bytes that may be broken
        raise CorruptImage(f"its frames cannot be counted ({_reason(error)})") from error


def _bytes_per_pixel(name: str, image: ImageFile.ImageFile) -> int:
    """At the worst moment of `_decode`, as measured on images of each kind. Pillow stores a pixel of three or
    four channels in 4 bytes; our array takes 3, twice while it is made.
    """
    more = 8 if name == "WebP" else 0  # its reader's own copies
    if image.has_transparency_data:
        return more + 4 + 4 + 4 + 4 + 4 + 3 + 3  # as read, upright, RGBA, white, composite, our array
    if image.mode.startswith("I"):
        return 4 + 4 + 8 + 8 + 1 + 3  # as read, its array, as int64, shifted, as uint8, our array
    return more + 4 + 4 + 3 + 3  # as read, upright or converted, our array


def _upright(image: ImageFile.ImageFile) -> Image.Image:
    turn = _UPRIGHT.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: ImageFile.ImageFile) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # EXIF that cannot be read tells no orientation; the pixels are sound (browsers agree)
        return 1


def _reason(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
