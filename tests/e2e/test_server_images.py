"""Images that clients send to a running server: broken, turned, extreme, or bombs."""

from __future__ import annotations

import io
import struct
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from service.schemas import DetectResponse
from tests.factories import encode, tiles_image
from tests.server_process import TILES, ServerProcess, assert_finds_tiles, assert_problem

pytestmark = pytest.mark.usefixtures("healthy_afterwards")


def _png_header_of(width: int, height: int) -> bytes:
    """A complete 1-bit PNG of this size: small as a file, huge in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(1 + (width + 7) // 8)
    pixels = zlib.compress(row * height, 1)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _animated() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        pytest.param(TILES[: len(TILES) // 2], 422, "corrupt-image", id="truncated PNG"),
        pytest.param(encode(tiles_image(), "JPEG")[:400], 422, "corrupt-image", id="truncated JPEG"),
        pytest.param(TILES[:60] + b"\xff" * 40 + TILES[100:], 422, "corrupt-image", id="corrupt PNG"),
        pytest.param(b"", 422, "corrupt-image", id="0 bytes"),
        pytest.param(b"just text, named photo.jpg", 415, "unsupported-image", id="text"),
        pytest.param(_animated(), 415, "unsupported-image", id="animated"),
    ],
)
def test_bad_images_are_refused(client: httpx.Client, body: bytes, status: int, slug: str) -> None:
    assert_problem(client.post("/detect", content=body, headers={"content-type": "image/jpeg"}), status, slug)
    assert_problem(client.post("/detect", files={"image": ("photo.jpg", body)}), status, slug)


@pytest.mark.parametrize("size", [(1, 1), (4000, 1), (1, 4000)])
def test_extreme_shapes_are_answered(client: httpx.Client, size: tuple[int, int]) -> None:
    height, width = size
    answer = client.post("/detect", content=encode(np.full((height, width, 3), 255, np.uint8)))
    found = DetectResponse.model_validate(answer.json())
    assert (found.image.width, found.image.height) == (width, height)
    for detection in found.detections:
        x1, y1, x2, y2 = detection.box
        assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height


def test_exif_orientation_is_honoured(client: httpx.Client) -> None:
    turned = Image.fromarray(tiles_image()).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me 90 degrees clockwise"
    stream = io.BytesIO()
    turned.save(stream, "PNG", exif=exif)
    assert_finds_tiles(client.post("/detect", content=stream.getvalue()).json())


def test_a_pixel_bomb_is_refused_from_its_header(server: ServerProcess, client: httpx.Client) -> None:
    before = server.peak_kilobytes()
    bomb = _png_header_of(20000, 20000)
    problem = assert_problem(client.post("/detect", content=bomb), 413, "image-too-large")
    assert "20000 x 20000" in problem["detail"]
    assert server.peak_kilobytes() - before < 32 * 1024
