"""Photos, requests and the server they may go to."""

from __future__ import annotations

import io
import itertools
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from hindsight.bench.photos import folder_photos, made_photos
from hindsight.bench.requests import detect_requests, mixed, rescore_requests, turn
from hindsight.bench.target import find_address
from hindsight.bench.wire import Address
from hindsight.errors import OptionError
from tests.unit.bench.fake_server import small_request

ADDRESS = Address("127.0.0.1", 8000, "localhost", "/behind")


def test_made_photos_are_the_same_for_the_same_seed() -> None:
    sizes = [(64, 48), (30, 70)]
    one, again, other = made_photos(sizes, 1), made_photos(sizes, 1), made_photos(sizes, 2)
    assert [photo.data for photo in one] == [photo.data for photo in again]
    assert {photo.data for photo in one}.isdisjoint(photo.data for photo in other)
    assert len({photo.data for photo in one}) == len(one) == 8
    with Image.open(io.BytesIO(one[1].data)) as image:
        assert image.size == (one[1].width, one[1].height) == (30, 70)


def test_a_photo_that_lies_on_its_side_has_its_upright_size(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 60)).save(tmp_path / "a.jpg", exif=exif)
    [photo] = folder_photos(tmp_path)
    assert (photo.width, photo.height, photo.media_type) == (60, 80, "image/jpeg")


def test_a_folder_is_read_no_further_than_256_photos(tmp_path: Path) -> None:
    for number in range(260):
        Image.new("L", (2, 2)).save(tmp_path / f"{number:03}.png")
    assert len(folder_photos(tmp_path)) == 256


def test_a_broken_photo_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(OptionError, match=r"a\.jpg cannot be read as a photo"):
        folder_photos(tmp_path)
    with pytest.raises(OptionError, match="no photos in"):
        folder_photos(tmp_path / "..")


def test_a_request_says_how_long_it_is() -> None:
    photos = made_photos([(40, 30)], 0)
    headers = {"Authorization": "Bearer k"}
    requests = [
        *detect_requests(ADDRESS, photos, query="?model=a b", headers=headers),
        *detect_requests(ADDRESS, photos, images=3, headers=headers),
        *rescore_requests(ADDRESS, photos, boxes=5, seed=0, headers=headers),
    ]
    assert [request.images for request in requests] == [1] * 4 + [3] * 4 + [1] * 4
    for request in requests:
        head, _, body = b"".join(request.payload).partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert re.fullmatch(r"POST /behind/(detect|rescore)\S* HTTP/1\.1", lines[0])
        assert f"Content-Length: {len(body)}" in lines
        assert "Host: localhost:8000" in lines and "Authorization: Bearer k" in lines


def test_boxes_lie_in_their_photo() -> None:
    photo = made_photos([(40, 30)], 0)[0]
    [request] = rescore_requests(ADDRESS, [photo], boxes=200, seed=4)
    [part] = [part for part in request.payload if b'name="boxes"' in part]
    boxes = json.loads(part.partition(b"\r\n\r\n")[2])
    assert len(boxes) == 200
    assert all(0 <= x1 < x2 <= 40 and 0 <= y1 < y2 <= 30 for x1, y1, x2, y2 in boxes)


def test_kinds_are_mixed_by_weight_and_repeat_themselves() -> None:
    kinds = [(3.0, turn([small_request("often")])), (1.0, turn([small_request("seldom")]))]
    drawn = [request.kind for request in itertools.starmap(mixed(kinds, 1, 400), [()] * 800)]
    assert drawn[:400] == drawn[400:]
    assert drawn[:400].count("often") == pytest.approx(300, abs=40)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://127.9.9.9:1/x/", "http://[::1]:1", "localhost:1"]
)
def test_this_machine_may_be_loaded(url: str) -> None:
    assert find_address(url).port == 1


@pytest.mark.parametrize("url", ["http://192.0.2.1", "http://[2001:db8::1]:8000", "http://10.0.0.1:8000"])
def test_others_may_not_unless_the_user_says_so(url: str) -> None:
    with pytest.raises(OptionError, match="--yes-remote"):
        find_address(url)


@pytest.mark.parametrize(
    "url",
    ["", "http://", "ftp://localhost", "http://u:p@localhost", "http://localhost/?x=1", "http://x:99999"],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(OptionError, match="url"):
        find_address(url)
