"""Bytes in, upright RGB out, or a clear refusal: never a crash, never a bomb."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hindsight.decode import ImageLimits, decode_image, footprint, read_header
from hindsight.errors import CorruptImage, ImageTooLarge, UnsupportedImage
from tests.factories import encode, tiles_image

PATTERN = tiles_image(48, 80)


def save(image: Image.Image, format_name: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_name, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height, followed by a well-formed but tiny body."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format_name", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_the_pixels_back(format_name: str) -> None:
    np.testing.assert_array_equal(decode_image(encode(PATTERN, format_name)), PATTERN)


@pytest.mark.parametrize(("format_name", "options"), [("WEBP", {"lossless": True}), ("GIF", {})])
def test_still_webp_and_gif_are_read(format_name: str, options: dict[str, object]) -> None:
    np.testing.assert_array_equal(decode_image(encode(PATTERN, format_name, **options)), PATTERN)


def test_jpeg_decodes_at_full_quality_as_pillow_does() -> None:
    data = encode(PATTERN, "JPEG", quality=90)
    np.testing.assert_array_equal(decode_image(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_grey_is_repeated_into_three_channels() -> None:
    grey = PATTERN[:, :, 0]
    decoded = decode_image(save(Image.fromarray(grey), "PNG"))
    np.testing.assert_array_equal(decoded, np.stack([grey] * 3, axis=2))


def test_alpha_is_composited_on_white() -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[0, 0] = (255, 0, 0, 255)
    rgba[0, 1] = (0, 0, 0, 128)
    decoded = decode_image(save(Image.fromarray(rgba, "RGBA"), "PNG"))
    assert decoded[0, 0].tolist() == [255, 0, 0]
    assert decoded[0, 1].tolist() == [127, 127, 127]
    assert decoded[1, 2].tolist() == [255, 255, 255]


def test_transparent_palette_entry_is_composited_on_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putdata([0, 1])
    assert decode_image(save(image, "PNG", transparency=0)).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_cmyk_jpeg_keeps_its_colours() -> None:
    rgb = Image.new("RGB", (16, 16), (200, 40, 90))
    decoded = decode_image(save(rgb.convert("CMYK"), "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - (200, 40, 90)).max() <= 6


def test_sixteen_bit_grey_png_keeps_its_upper_byte() -> None:
    values = np.array([[0, 0x0180, 0x8000, 0xFFFF]], np.uint16)
    decoded = decode_image(save(Image.fromarray(values), "PNG"))
    assert decoded[0, :, 0].tolist() == [0, 1, 128, 255]


def test_one_bit_image_is_black_and_white() -> None:
    image = Image.fromarray(PATTERN[:, :, 0] > 0)
    assert set(np.unique(decode_image(save(image, "PNG"))).tolist()) == {0, 255}


def test_floating_point_tiff_is_refused() -> None:
    with pytest.raises(UnsupportedImage, match="floating-point"):
        decode_image(save(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(format_name: str, orientation: int) -> None:
    # Where the first row and first column of the stored image belong, by the EXIF standard.
    turn = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a.swapaxes(0, 1), 2),
        8: np.rot90,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encode(PATTERN, format_name, exif=exif, **({} if format_name == "TIFF" else {"quality": 95}))
    plain = encode(PATTERN, format_name, **({} if format_name == "TIFF" else {"quality": 95}))
    np.testing.assert_array_equal(decode_image(stored), turn(decode_image(plain)))
    header = read_header(stored)
    assert header.hw == decode_image(stored).shape[:2]
    assert header.format.upper() == format_name
    assert header.orientation == (1 if format_name == "TIFF" else orientation)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_leaves_the_pixels_as_they_are() -> None:
    broken = encode(PATTERN, "JPEG", exif=b"Exif\0\0MM\0*\0\0\xff\xff garbage")
    np.testing.assert_array_equal(decode_image(broken), decode_image(encode(PATTERN, "JPEG")))


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animated_images_are_refused(format_name: str) -> None:
    frames = [Image.fromarray(np.roll(PATTERN, step * 8, axis=1)) for step in range(3)]
    data = save(frames[0], format_name, save_all=True, append_images=frames[1:])
    with pytest.raises(UnsupportedImage, match="more than one frame"):
        decode_image(data)


def test_a_phone_photo_with_a_second_picture_is_read_as_its_first() -> None:
    frames = [Image.fromarray(PATTERN), Image.fromarray(PATTERN[::-1].copy())]
    data = save(frames[0], "MPO", save_all=True, append_images=frames[1:], quality=95)
    assert (
        np.abs(decode_image(data).astype(int) - decode_image(encode(PATTERN, "JPEG", quality=95))).max() == 0
    )


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9])
def test_a_truncated_image_is_corrupt(format_name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encode(noise, format_name)
    with pytest.raises(CorruptImage):
        decode_image(data[: max(16, int(len(data) * share))])


@pytest.mark.parametrize("read", [decode_image, read_header, footprint])
def test_a_palette_image_without_a_palette_is_corrupt(read: Callable[[bytes], object]) -> None:
    data = save(Image.fromarray(PATTERN).convert("P"), "PNG")
    start = data.index(b"PLTE") - 4
    length = int.from_bytes(data[start : start + 4])
    transparent = b"\0\0\0\x01tRNS\0" + zlib.crc32(b"tRNS\0").to_bytes(4)
    with pytest.raises(CorruptImage, match="no palette"):
        read(data[:start] + transparent + data[start + 12 + length :])


def test_no_bytes_are_a_corrupt_image() -> None:
    with pytest.raises(CorruptImage, match="0 bytes"):
        decode_image(b"")


@pytest.mark.parametrize("data", [b"hello, I am a text named photo.jpg", b"<svg/>", b"\0" * 100, b"\xff"])
def test_what_is_no_image_is_unsupported(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="expected one of JPEG"):
        decode_image(data)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1)])
def test_thin_images_are_fine(shape: tuple[int, int]) -> None:
    assert decode_image(encode(np.full((*shape, 3), 7, np.uint8))).shape == (*shape, 3)


def test_too_many_bytes_are_refused() -> None:
    data = encode(PATTERN)
    with pytest.raises(ImageTooLarge, match=f"{len(data)} bytes"):
        decode_image(data, ImageLimits(max_bytes=len(data) - 1))
    decode_image(data, ImageLimits(max_bytes=len(data)))


def test_the_pixel_limit_is_exact_and_may_be_raised() -> None:
    data = encode(PATTERN)
    with pytest.raises(ImageTooLarge, match="80 x 48 pixels"):
        decode_image(data, ImageLimits(max_pixels=48 * 80 - 1))
    decode_image(data, ImageLimits(max_pixels=48 * 80))


@pytest.mark.parametrize("side", [7100, 10_000, 20_000, 2**31 - 1])
def test_pixels_are_counted_from_the_header_without_pillow_having_a_say(side: int) -> None:
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageTooLarge):
            decode_image(png_header(side, side))
    assert before == Image.MAX_IMAGE_PIXELS


BOMB = """
import resource, sys
from hindsight.decode import decode_image
from hindsight.errors import ImageError, ImageTooLarge
data = open(sys.argv[1], "rb").read()
try:
    decode_image(data[:100])  # loads the format's code
except ImageError:
    pass
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_image(data)
except ImageTooLarge:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_refusing_a_bomb_takes_no_memory(kind: str, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(png_header(20_000, 20_000) if kind == "png" else webp_canvas(16_383, 16_383))
    command = [sys.executable, "-c", BOMB, str(bomb)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 8 * 1024, "KiB of peak memory above the baseline"


def webp_canvas(width: int, height: int) -> bytes:
    """An animated WebP whose one small frame lies on a canvas of width x height."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    frame = encode(PATTERN, "WEBP", lossless=True)[12:]
    canvas = bytes([2, 0, 0, 0]) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    placed = bytes(6) + (79).to_bytes(3, "little") + (47).to_bytes(3, "little") + bytes(4) + frame
    body = b"WEBP" + chunk(b"VP8X", canvas) + chunk(b"ANIM", bytes(6)) + chunk(b"ANMF", placed)
    return chunk(b"RIFF", body)


@pytest.mark.parametrize(
    ("mode", "bytes_per_pixel"), [("RGB", 14), ("L", 14), ("CMYK", 14), ("RGBA", 26), ("I;16", 28)]
)
def test_what_decoding_takes_is_told_from_the_header(mode: str, bytes_per_pixel: int) -> None:
    stream = io.BytesIO()
    Image.new(mode, (50, 30)).save(stream, "TIFF")
    found = footprint(stream.getvalue())
    assert found.hw == (30, 50) and found.working_bytes == 30 * 50 * bytes_per_pixel


def test_what_is_too_large_has_no_footprint() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (50, 30)).save(stream, "PNG")
    with pytest.raises(ImageTooLarge):
        footprint(stream.getvalue(), ImageLimits(max_pixels=1499))
