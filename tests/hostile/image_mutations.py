"""Broken images: valid files of every format we read, and what a random source does to their bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np
from PIL import Image

INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@cache
def valid_images() -> tuple[tuple[str, bytes], ...]:
    """(format, file): small, in the variants that decoders take different paths for."""
    noise = np.random.default_rng(7).integers(0, 256, (48, 80, 3), np.uint8)
    smooth = Image.fromarray(noise).resize((160, 96), Image.Resampling.BILINEAR)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    palette = smooth.convert("P")
    frames = [smooth, smooth.transpose(Image.Transpose.ROTATE_180)]
    found: list[tuple[str, bytes]] = []

    def add(format_name: str, image: Image.Image, **options: object) -> None:
        stream = io.BytesIO()
        image.save(stream, format_name, **options)
        found.append((format_name, stream.getvalue()))

    add("JPEG", smooth, quality=70, exif=exif, icc_profile=bytes(range(256)))
    add("JPEG", smooth, progressive=True)
    add("JPEG", smooth.convert("L"), restart_marker_blocks=3)
    add("JPEG", smooth.convert("CMYK"))
    add("PNG", smooth, exif=exif, icc_profile=bytes(range(256)))
    add("PNG", smooth.convert("RGBA"))
    add("PNG", palette, transparency=3)
    add("PNG", Image.fromarray(noise[..., 0].astype(np.uint16) << 7))
    add("PNG", smooth.convert("1"))
    add("PNG", frames[0], save_all=True, append_images=frames[1:])
    add("WEBP", smooth, quality=70, exif=exif)
    add("WEBP", smooth.convert("RGBA"), lossless=True)
    add("WEBP", frames[0], save_all=True, append_images=frames[1:])
    add("GIF", palette, comment=b"a comment")
    add("GIF", frames[0], save_all=True, append_images=frames[1:])
    add("BMP", smooth)
    add("BMP", palette)
    add("TIFF", smooth)
    for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
        add("TIFF", smooth, compression=compression)
    add("TIFF", smooth.convert("1"), compression="group4")
    add("TIFF", Image.fromarray(noise[..., 0].astype(np.uint16) << 7))
    return tuple(found)


def broken_image(random: Random) -> tuple[str, bytes]:
    """(what it was, file): a valid file with one to four things done to it."""
    name, data = random.choice(valid_images())
    for _ in range(random.choice((1, 1, 2, 4))):
        if data:
            data = random.choice((*_ANY, *_OF_FORMAT[name]))(random, data)
    return name, data


def _flip_bits(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 4, 32))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _flip_in_the_header(random: Random, data: bytes) -> bytes:
    end = min(len(data), 100)
    return _flip_bits(random, data[:end]) + data[end:]


def _truncate(random: Random, data: bytes) -> bytes:
    return data[: random.randrange(len(data))]


def _set_number(random: Random, data: bytes) -> bytes:
    size = random.choice((1, 2, 4))
    at = random.randrange(max(1, min(len(data) - size, random.choice((64, 512, len(data))))))
    value = random.choice(INTERESTING) & (256**size - 1)
    return data[:at] + value.to_bytes(size, random.choice(("big", "little"))) + data[at + size :]


def _remove(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + data[at + random.choice((1, 4, 100)) :]


def _insert(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + random.randbytes(random.choice((1, 4, 100))) + data[at:]


def _repeat(random: Random, data: bytes) -> bytes:
    at = random.randrange(len(data))
    piece = data[at : at + random.choice((4, 64, 1024))]
    return data[:at] + piece * random.choice((2, 50)) + data[at:]


def _splice(random: Random, data: bytes) -> bytes:
    other = random.choice(valid_images())[1]
    return data[: random.randrange(len(data))] + other[random.randrange(len(other)) :]


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def _png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def _edit_png_chunk(random: Random, data: bytes) -> bytes:
    """With checksums that are right, so that the change is looked at."""
    chunks = _png_chunks(data)
    if not chunks:
        return data
    at = random.randrange(len(chunks))
    kind, content = chunks[at]
    edit = random.randrange(5)
    if edit == 0 and content:
        chunks[at] = (kind, random.choice((_flip_bits, _set_number, _truncate))(random, content))
    elif edit == 1:
        chunks.insert(random.randrange(len(chunks)), (kind, content))
    elif edit == 2:
        del chunks[at]
    elif edit == 3:
        kinds = (b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"gAMA", b"zTXt", b"iTXt", b"IDAT")
        chunks.insert(1 + random.randrange(len(chunks)), (random.choice(kinds), random.randbytes(40)))
    else:
        random.shuffle(chunks)
    return _png_of(chunks)


def _resize_png(random: Random, data: bytes) -> bytes:
    chunks = _png_chunks(data)
    if not chunks or len(chunks[0][1]) < 13:
        return data
    kind, content = chunks[0]
    size = struct.pack(">II", random.choice(INTERESTING), random.choice(INTERESTING))
    return _png_of([(kind, size + content[8:]), *chunks[1:]])


def _resize_jpeg(random: Random, data: bytes) -> bytes:
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        if (at := data.find(marker)) >= 0:
            size = struct.pack(">HH", *(random.choice(INTERESTING) & 0xFFFF for _ in range(2)))
            return data[: at + 5] + size + data[at + 9 :]
    return data


def _edit_jpeg_marker(random: Random, data: bytes) -> bytes:
    places = [at for at in range(len(data) - 4) if data[at] == 0xFF and data[at + 1] >= 0xC0]
    if not places:
        return data
    at = random.choice(places)
    if random.random() < 0.5:
        return data[: at + 1] + bytes([random.randrange(256)]) + data[at + 2 :]
    length = struct.pack(">H", random.choice(INTERESTING) & 0xFFFF)
    return data[: at + 2] + length + data[at + 4 :]


def _jpeg_segment(random: Random, data: bytes) -> bytes:
    marker, head = random.choice(
        ((0xE1, b"Exif\0\0"), (0xE2, b"ICC_PROFILE\0\1\1"), (0xE2, b"MPF\0"), (0xED, b"Photoshop 3.0\0"))
    )
    content = (
        head + random.choice((b"II*\0\x08\0\0\0", b"8BIM", b"")) + random.randbytes(random.randrange(300))
    )
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content + data[2:]


def _resize_at(offset: int, pattern: str) -> Callable[[Random, bytes], bytes]:
    def resize(random: Random, data: bytes) -> bytes:
        most = 256 ** (struct.calcsize(pattern) // 2) - 1
        size = struct.pack(pattern, *(random.choice(INTERESTING) & most for _ in range(2)))
        return data[:offset] + size + data[offset + len(size) :]

    return resize


def _edit_tiff_tag(random: Random, data: bytes) -> bytes:
    if len(data) < 10:
        return data
    order = "<" if data[:2] == b"II" else ">"
    (table,) = struct.unpack_from(order + "I", data, 4)
    if table + 2 > len(data):
        return data
    (count,) = struct.unpack_from(order + "H", data, table)
    at = table + 2 + 12 * random.randrange(max(1, count))
    field, pattern = random.choice(((0, "H"), (2, "H"), (4, "I"), (8, "I")))
    value = random.choice((random.choice(INTERESTING), 256, 257, 273, 277, 279, 322, 324))
    packed = struct.pack(order + pattern, value & (256 ** struct.calcsize(pattern) - 1))
    return data[: at + field] + packed + data[at + field + len(packed) :]


_ANY = (_flip_bits, _flip_in_the_header, _truncate, _set_number, _remove, _insert, _repeat, _splice)
_OF_FORMAT: dict[str, tuple[Callable[[Random, bytes], bytes], ...]] = {
    "JPEG": (_resize_jpeg, _edit_jpeg_marker, _edit_jpeg_marker, _jpeg_segment),
    "PNG": (_resize_png, _edit_png_chunk, _edit_png_chunk, _edit_png_chunk),
    "WEBP": (_resize_at(26, "<HH"), _resize_at(21, "<HH")),
    "GIF": (_resize_at(6, "<HH"),),
    "BMP": (_resize_at(18, "<II"), _resize_at(30, "<II")),
    "TIFF": (_edit_tiff_tag, _edit_tiff_tag, _edit_tiff_tag),
}
