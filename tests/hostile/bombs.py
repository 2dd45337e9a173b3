"""Image files built to cost their reader far more than they cost their sender."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.factories import encode, tiles_image

TILES_JPEG = encode(tiles_image(), "JPEG", quality=95)
TILES_PNG = encode(tiles_image(), "PNG")
TILES_GIF = encode(tiles_image(), "GIF")
_MEGABYTES = 8


def png_chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(chunks: bytes) -> bytes:
    """The tiles as PNG, with `chunks` between its header and its pixels."""
    return TILES_PNG[:33] + chunks + TILES_PNG[33:]


def png_of_size(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", b"x") + png_chunk(b"IEND")


def jpeg_with(segments: bytes) -> bytes:
    return TILES_JPEG[:2] + segments + TILES_JPEG[2:]


def jpeg_of_size(width: int, height: int) -> bytes:
    at = TILES_JPEG.index(b"\xff\xc0") + 5
    return TILES_JPEG[:at] + struct.pack(">HH", height, width) + TILES_JPEG[at + 4 :]


def jpeg_of_scans(count: int) -> bytes:
    """A progressive JPEG of 9 million pixels that goes over all of them `count` times more."""
    plain = encode(np.full((3000, 3000), 128, np.uint8), "JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:-2] + plain[last : last + 12] * count + plain[-2:]


def jpeg_with_exif(data: bytes) -> bytes:
    return jpeg_with(b"\xff\xe1" + struct.pack(">H", len(data) + 8) + b"Exif\0\0" + data)


def gif_with(blocks: bytes) -> bytes:
    at = TILES_GIF.index(b",", 13 + 3 * 256 if TILES_GIF[10] & 7 == 7 else 13)
    return TILES_GIF[:at] + blocks + TILES_GIF[at:]


def gif_of_size(screen: int, frame: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\x02\x02\x4c\x01\0;"


def gif_of_crumbs() -> bytes:
    """Its pixels come in sub-blocks of one byte."""
    head = b"GIF89a" + struct.pack("<HHBBB", 32, 32, 0x80, 0, 0) + bytes(6)
    return (
        head
        + b","
        + struct.pack("<HHHHB", 0, 0, 32, 32, 0)
        + b"\x02"
        + b"\x01a" * (_MEGABYTES * 500_000)
        + b"\0;"
    )


def bmp_of(width: int, height: int, compression: int, data: bytes) -> bytes:
    offset = 54 + 1024
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(data), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + info + bytes(1024) + data


def webp_of_size(width: int, height: int) -> bytes:
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + canvas + encode(tiles_image(), "WEBP", lossless=True)[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def tiff_of(tags: dict[int, tuple[int, int, int]], data: bytes = b"", **changed: int) -> bytes:
    """One grey 64 x 64 page. tags: tag -> (type, count, value); a value of -1 means where `data` starts."""
    plain = {256: (4, 1, 64), 257: (4, 1, 64), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}
    plain.update(
        {
            {"width": 256, "height": 257, "compression": 259}[name]: (4, 1, value)
            for name, value in changed.items()
        }
    )
    entries = sorted({**plain, **tags}.items())
    start = 8 + 2 + 12 * len(entries) + 4
    rows = b"".join(
        struct.pack("<HHII", tag, kind, count, start if value < 0 else value)
        for tag, (kind, count, value) in entries
    )
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + rows + bytes(4) + data


def animation(format_name: str, frames: int) -> bytes:
    stream = io.BytesIO()
    images = [Image.new("RGB", (8, 8), (index % 256, 0, index // 256)) for index in range(frames)]
    images[0].save(stream, format_name, save_all=True, append_images=images[1:])
    return stream.getvalue()


def _deflated(size: int) -> bytes:
    return zlib.compress(bytes(size), 9)


def _many(piece: bytes) -> bytes:
    return piece * (_MEGABYTES * 1_000_000 // len(piece))


def header_bombs() -> dict[str, bytes]:
    """Enormous by their header: refused for that, 413."""
    side = 8_000
    tile = _deflated(side * side)
    return {
        "PNG": png_of_size(60_000, 60_000),
        "PNG of 2**31 a side": png_of_size(2**31 - 1, 2**31 - 1),
        "JPEG": jpeg_of_size(65_500, 65_500),
        "GIF": gif_of_size(65_535, 1),
        "GIF, in its frame": gif_of_size(1, 65_535),
        "BMP": bmp_of(2**30, 2**30, 0, b""),
        "BMP, upside down": bmp_of(2**30, -(2**30), 0, b""),
        "WebP": webp_of_size(16_000, 16_000),
        "WebP below Pillow's limit": webp_of_size(8_000, 8_000),
        "TIFF": tiff_of({273: (4, 1, 0), 279: (4, 1, 0)}, width=2**20, height=2**20),
        "TIFF, in its tile": tiff_of(
            {322: (4, 1, side), 323: (4, 1, side), 324: (4, 1, -1), 325: (4, 1, len(tile))},
            tile,
            compression=8,
        ),
    }


def structure_bombs() -> dict[str, bytes]:
    """Small pictures in costly files: 422."""
    overlapping = {tag: (1, 1_000_000, -1) for tag in range(1000, 1300)}
    strips = _MEGABYTES * 125_000
    return {
        "PNG zTXt": png_with(png_chunk(b"zTXt", b"a\0\0" + _deflated(64_000_000))),
        "PNG iTXt": png_with(png_chunk(b"iTXt", b"a\0\x01\0\0\0" + _deflated(64_000_000))),
        "PNG iCCP": png_with(png_chunk(b"iCCP", b"a\0\0" + _deflated(64_000_000))),
        "PNG empty chunks": png_with(_many(png_chunk(b"abCd"))),
        "PNG empty IDAT": png_with(_many(png_chunk(b"IDAT"))),
        "JPEG empty segments": jpeg_with(_many(b"\xff\xe1\x00\x02")),
        "JPEG filling": jpeg_with(_many(b"\xff")),
        "JPEG stuffing": jpeg_with(_many(b"\xff\x00")),
        "JPEG endings": jpeg_with(_many(b"\xff\xd9")),
        "JPEG EXIF": jpeg_with(b"".join([b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527)] * 400)),
        "JPEG scans": jpeg_of_scans(5_000),
        "GIF extensions": gif_with(_many(b"!\xfe\x01a\0")),
        "GIF crumbs of a comment": gif_with(b"!\xfe" + _many(b"\x01a") + b"\0"),
        "GIF crumbs of pixels": gif_of_crumbs(),
        "GIF junk": gif_with(_many(b"\x07")),
        "TIFF overlapping tags": tiff_of(overlapping, bytes(1_000_000)),
        "TIFF strips": tiff_of(
            {273: (4, strips, -1), 278: (3, 1, 1), 279: (4, strips, -1)}, bytes(4 * strips)
        ),
    }


def run_length_bombs() -> dict[str, bytes]:
    """BMPs whose decoder is slow: 415 above a size."""
    return {
        "BMP of one line": bmp_of(49_000_000, 1, 1, b"\x01\x05\x00\x00"),
        "BMP of a jump": bmp_of(25_000_000, 2, 1, b"\x00\x02\xff\xff" * 4),
        "BMP of empty runs": bmp_of(1000, 1000, 1, _many(b"\x01\x05")),
    }


def animations() -> dict[str, bytes]:
    """One frame too many, or thousands: 415."""
    return {
        "GIF": animation("GIF", 1000),
        "APNG": animation("PNG", 500),
        "WebP": animation("WEBP", 200),
        "TIFF": animation("TIFF", 500),
    }


def odd_exif() -> dict[str, bytes]:
    """EXIF that cannot be right on a photo that is: answered as the photo."""

    def orientation(value: int, kind: int = 3, count: int = 1) -> bytes:
        return b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, kind, count, value) + bytes(4)

    many = b"".join(struct.pack("<HHII", tag, 2, 60_000, 8) for tag in range(5000))
    return {
        "empty": b"",
        "noise": bytes(range(256)) * 200,
        "orientation 0": orientation(0),
        "orientation 9": orientation(9),
        "orientation 65535": orientation(65_535),
        "orientation as text": orientation(0x41414141, kind=2, count=4),
        "orientation as fraction": orientation(2**31, kind=5),
        "orientation of 2**31 values": orientation(8, count=2**31),
        "table beyond the end": b"II*\0" + struct.pack("<I", 2**31),
        "overlapping tags": b"II*\0" + struct.pack("<IH", 8, 5000) + many,
        "a table that is its own next": b"MM\0*" + struct.pack(">IHI", 8, 0, 8),
    }
