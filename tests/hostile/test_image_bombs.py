"""Images that cost more than they say: refused from their headers and their structure, soon and cheaply."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image

from tests.factories import encode, tiles_image
from tests.hostile import bombs
from tests.server_process import ServerProcess, assert_problem

pytestmark = pytest.mark.usefixtures("unharmed")

# Of the server's CPU for all of one group; unmended, single files of these groups take this long or longer.
CPU_SECONDS = 6.0
MEGABYTES = 120  # that a group may add to the server's peak: bodies of 26 MB, and copies of them


def cpu_seconds(server: ServerProcess) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize(
    ("group", "status"),
    [
        (bombs.header_bombs, 413),
        (bombs.structure_bombs, 422),
        (bombs.run_length_bombs, 415),
        (bombs.animations, 415),
    ],
)
def test_bombs_are_refused_cheaply(
    server: ServerProcess, group: Callable[[], dict[str, bytes]], status: int
) -> None:
    files = group()
    slugs = {413: "image-too-large", 422: "corrupt-image", 415: "unsupported-image"}
    spent, peak = cpu_seconds(server), server.peak_kilobytes()
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for name, data in files.items():
            answer = client.post("/detect", content=data)
            assert answer.status_code == status, (name, answer.text[:300])
            assert_problem(answer, status, slugs[status])
    assert cpu_seconds(server) - spent < CPU_SECONDS
    assert server.peak_kilobytes() - peak < MEGABYTES * 1024


def test_a_bomb_spoils_no_neighbour(server: ServerProcess) -> None:
    files = [bombs.TILES_PNG, bombs.png_of_size(60_000, 60_000), bombs.jpeg_of_scans(200), bombs.TILES_PNG]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        answer = client.post("/detect", files=[("image", ("a", data)) for data in files])
    results = answer.json()["results"]
    assert [result.get("status", 200) for result in results] == [200, 413, 422, 200]
    assert results[0]["detections"] == results[3]["detections"] != []


@pytest.mark.parametrize("name", bombs.odd_exif())
def test_a_photo_with_absurd_exif_is_answered(server: ServerProcess, name: str) -> None:
    exif = bombs.odd_exif()[name]
    assert 0 < len(exif) + 1 < 65_527
    photos = [
        bombs.jpeg_with_exif(exif),
        bombs.png_with(bombs.png_chunk(b"eXIf", exif)),
        bombs.png_with(bombs.png_chunk(b"eXIf", exif * 20)),
    ]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for photo in photos:
            answer = client.post("/detect", content=photo)
            assert answer.status_code == 200, answer.text
            assert answer.json()["image"] == {"width": 160, "height": 96}


@pytest.mark.parametrize(
    "format_name", ["ICO", "PPM", "TGA", "PCX", "SGI", "DDS", "JPEG2000", "PDF", "EPS", "MPO", "AVIF"]
)
def test_only_documented_formats_are_read(server: ServerProcess, format_name: str) -> None:
    """An MPO, which starts as a JPEG, is read as that."""
    data = encode(tiles_image(), format_name)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        answer = client.post("/detect", content=data)
    if format_name == "MPO":
        assert answer.status_code == 200
    else:
        assert_problem(answer, 415, "unsupported-image")


def test_files_that_are_only_text_are_not_interpreted(server: ServerProcess) -> None:
    texts = [
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%!PS\n(/etc/passwd) (r) file",
        b"push graphic-context\nfill 'url(https://127.0.0.1/)'\npop graphic-context",
    ]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for text in texts:
            assert_problem(client.post("/detect", content=text), 415, "unsupported-image")


def test_ordinary_files_of_every_writer_pass_the_checks(server: ServerProcess) -> None:
    image = Image.fromarray(tiles_image())
    variants: list[tuple[str, dict[str, object]]] = [
        ("JPEG", {"progressive": True, "quality": 95}),
        ("JPEG", {"restart_marker_blocks": 1, "quality": 95, "comment": b"\xff\xd9" * 100}),
        ("JPEG", {"icc_profile": bytes(300_000), "quality": 95}),
        ("PNG", {"icc_profile": bytes(1000), "dpi": (72, 72)}),
        ("GIF", {"comment": b"c" * 5000}),
        ("TIFF", {"compression": "tiff_deflate"}),
        ("TIFF", {"compression": "tiff_lzw", "strip_size": 500}),
        ("BMP", {}),
        ("WEBP", {"lossless": True, "exif": b"Exif\0\0II*\0"}),
        ("WEBP", {"quality": 90}),
    ]
    with httpx.Client(base_url=server.url, timeout=60) as client:
        for format_name, options in variants:
            stream = io.BytesIO()
            image.save(stream, format_name, **options)
            answer = client.post("/detect", content=stream.getvalue())
            assert answer.status_code == 200, (format_name, options, answer.text)
            assert [found["label"] for found in answer.json()["detections"]] == ["red", "green"]
