"""Is a file built like an image that somebody saved, or to cost its reader more than its pixels do?

`ImageLimits` bounds the pixels; a small file can still hold millions of empty chunks, thousands of passes
over one picture, or a table that describes more data than there is. Each check walks the structure only, for
microseconds, and raises CorruptImage, UnsupportedImage or ImageTooLarge. What is broken otherwise passes: the
format's reader will say so.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from hindsight.errors import CorruptImage, ImageTooLarge, UnsupportedImage

__all__ = ["check_structure"]

_MAX_PNG_CHUNKS = 32_768
_MAX_JPEG_SEGMENTS = 4_096
_MAX_JPEG_SCANS = 100  # encoders write about ten
_MAX_JPEG_JUNK = 64 * 1024  # bytes between segments, which readers skip one at a time
_MAX_JPEG_METADATA = 16 * 2**20
_MAX_BMP_RLE = 4_000_000  # pixels, and bytes: Pillow expands run lengths in Python
_MAX_TIFF_VALUES = (
    262_144  # of one tag: strips of one row, in the tallest image of our limits that makes sense
)

# In entropy-coded data 0xff is followed by 0 (stuffing) or is a restart marker; fill bytes are 0xff too.
_JPEG_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_JPEG_WITH_LENGTH = frozenset({*range(0xC0, 0xD0), 0xDA, 0xDB, 0xDC, 0xDD, *range(0xE0, 0xF0), 0xFE} - {0xC8})
_TEMPORARY, _END_OF_IMAGE, _START_OF_SCAN, _COMMENT = 0x01, 0xD9, 0xDA, 0xFE

_GIF_EXTENSION, _GIF_IMAGE, _GIF_TRAILER = 0x21, 0x2C, 0x3B

_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TIFF_BYTES = frozenset({1, 2, 6, 7})  # types whose values are cheap, however many
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_TIFF_SUBDIRECTORIES = frozenset({34665, 34853, 40965})  # EXIF, GPS, interoperability


def check_structure(name: str, data: bytes, max_pixels: int) -> None:
    """`name`: the format as hindsight.decode calls it; `data` starts with its signature."""
    check = _CHECKS.get(name)
    if check is not None:
        check(data, max_pixels)


def _check_png(data: bytes, max_pixels: int) -> None:
    position, size = 8, len(data)
    for _ in range(_MAX_PNG_CHUNKS):
        if position + 8 > size or data[position + 4 : position + 8] == b"IEND":
            return
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    raise CorruptImage(f"the PNG has more than {_MAX_PNG_CHUNKS} chunks")


def _check_jpeg(data: bytes, max_pixels: int) -> None:
    position, segments, scans, junk, metadata = 2, 0, 0, 0, 0
    while found := _JPEG_MARKER.search(data, position):
        if scans == 0:
            junk += found.start() - position
        marker, position = data[found.start() + 1], found.end()
        segments += 1
        if marker == _END_OF_IMAGE and scans:
            return
        if marker in _JPEG_WITH_LENGTH:
            length = int.from_bytes(data[position : position + 2], "big")
            position += max(2, length)
            scans += marker == _START_OF_SCAN
            metadata += length if 0xE0 <= marker <= 0xEF or marker == _COMMENT else 0
        elif marker != _TEMPORARY:
            raise CorruptImage(f"the JPEG has a marker 0x{marker:02x} where none may be")
        if segments > _MAX_JPEG_SEGMENTS:
            raise CorruptImage(f"the JPEG has more than {_MAX_JPEG_SEGMENTS} segments")
        if scans > _MAX_JPEG_SCANS:
            raise CorruptImage(f"the JPEG has more than {_MAX_JPEG_SCANS} scans")
        if metadata > _MAX_JPEG_METADATA or junk > _MAX_JPEG_JUNK:
            raise CorruptImage("the JPEG has far more metadata than an image needs")


def _check_webp(data: bytes, max_pixels: int) -> None:
    """Of the canvas, for which memory is taken as soon as the file is opened."""
    kind = data[12:16]
    if len(data) < 30:
        return
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"the image is {width} x {height} pixels; at most {max_pixels} in all are accepted"
        )


def _check_gif(data: bytes, max_pixels: int) -> None:
    """Sub-blocks hold up to 255 bytes; a file of far more is made of crumbs, which are read one by one."""
    size, images = len(data), 0
    crumbs = 4096 + size // 64
    position = _after_palette(data, 13, flags_at=10)
    while position < size and crumbs >= 0 and data[position] != _GIF_TRAILER:
        if data[position] == _GIF_IMAGE:
            images += 1
            if images > 1:
                return  # an animation: refused for that
            position = _after_palette(data, position + 10, flags_at=position + 9) + 1
        elif data[position] == _GIF_EXTENSION:
            position += 2
        else:
            position, crumbs = position + 1, crumbs - 1
            continue
        while position < size and crumbs >= 0 and (length := data[position]):
            position, crumbs = position + 1 + length, crumbs - 1
        position += 1
    if crumbs < 0:
        raise CorruptImage("the GIF is made of far more blocks than an image needs")


def _after_palette(data: bytes, position: int, flags_at: int) -> int:
    if flags_at >= len(data):
        return len(data)
    flags = data[flags_at]
    return position + (3 << (flags & 7) + 1 if flags & 0x80 else 0)


def _check_bmp(data: bytes, max_pixels: int) -> None:
    if len(data) < 34 or int.from_bytes(data[14:18], "little") < 40:
        return
    width, height, compression = struct.unpack_from("<ii4xI", data, 18)
    run_length = compression in (1, 2)
    if run_length and max(abs(width * height), len(data)) > _MAX_BMP_RLE:
        raise UnsupportedImage(
            f"a run-length coded BMP may have {_MAX_BMP_RLE} pixels and bytes; save this one as PNG"
        )


def _check_tiff(data: bytes, max_pixels: int) -> None:
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8:
        return
    spent = 0
    pending, seen = [struct.unpack_from(order + "I", data, 4)[0]], 0
    while pending and seen < 1 + len(_TIFF_SUBDIRECTORIES):
        offset, seen = pending.pop(), seen + 1
        if offset + 2 > len(data):
            continue
        (count,) = struct.unpack_from(order + "H", data, offset)
        tile = {_TILE_WIDTH: 1, _TILE_LENGTH: 1}
        for entry in range(offset + 2, min(offset + 2 + 12 * count, len(data) - 11), 12):
            tag, kind, values, value = struct.unpack_from(order + "HHII", data, entry)
            if kind not in _TIFF_BYTES and values > _MAX_TIFF_VALUES:
                raise CorruptImage(f"the TIFF has {values} values in tag {tag}")
            size = _TIFF_SIZES.get(kind, 0) * values
            spent += size if size > 4 else 0
            if tag in tile:
                tile[tag] = struct.unpack_from(order + "H", data, entry + 8)[0] if kind == 3 else value
            elif tag in _TIFF_SUBDIRECTORIES:
                pending.append(value)
        if spent > len(data):
            raise CorruptImage("the TIFF's tags describe more data than the file has")
        if tile[_TILE_WIDTH] * tile[_TILE_LENGTH] > max_pixels:
            raise ImageTooLarge(f"a tile of the TIFF has more than {max_pixels} pixels")


_CHECKS: dict[str, Callable[[bytes, int], None]] = {
    "JPEG": _check_jpeg,
    "PNG": _check_png,
    "WebP": _check_webp,
    "GIF": _check_gif,
    "BMP": _check_bmp,
    "TIFF": _check_tiff,
}
