"""What of an image a card shows, and that no picture is made twice or left behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hindsight.audit.dataset import AuditImage
from hindsight.audit.pictures import frame_around, picture_name, remove_others, write_pictures
from tests.unit.audit.sets import voc_audit_set


def test_a_frame_has_a_cards_shape_where_there_is_room() -> None:
    left, top, right, bottom = frame_around([(300, 200, 340, 220)], (480, 640))
    assert (right - left) / (bottom - top) == pytest.approx(4 / 3, abs=0.05)
    assert left < 300 and top < 200 and right > 340 and bottom > 220


@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=3),
)
def test_a_frame_lies_in_the_image_and_holds_the_boxes(
    size: tuple[int, int], corners: list[tuple[float, float, float, float]]
) -> None:
    height, width = size
    boxes = [
        (min(a, c) * width, min(b, d) * height, max(a, c) * width, max(b, d) * height)
        for a, b, c, d in corners
    ]
    left, top, right, bottom = frame_around(boxes, size)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    for x1, y1, x2, y2 in boxes:
        assert left <= x1 + 1 and top <= y1 + 1 and right >= x2 - 1 and bottom >= y2 - 1


def image_of(tmp_path: Path) -> AuditImage:
    return voc_audit_set(tmp_path / "set").images[0]


def test_pictures_are_cut_once_and_counted_by_image(tmp_path: Path) -> None:
    image, folder, counted = image_of(tmp_path), tmp_path / "pictures", []
    frames = [(0, 0, 40, 30), (10, 10, 50, 40)]
    write_pictures(folder, [(image, frame) for frame in frames], 2, lambda: counted.append(1))
    names = {picture_name(image, frame) for frame in frames}
    assert {file.name for file in folder.iterdir()} == names and len(counted) == 1
    with Image.open(folder / picture_name(image, frames[0])) as picture:
        assert picture.size == (40, 30)
    changed = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    write_pictures(folder, [(image, frame) for frame in frames], 2, lambda: counted.append(1))
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == changed
    remove_others(folder, [picture_name(image, frames[1])])
    assert [file.name for file in folder.iterdir()] == [picture_name(image, frames[1])]


def test_an_image_that_went_away_costs_its_picture_alone(tmp_path: Path) -> None:
    image = image_of(tmp_path)
    gone = replace(image, path=tmp_path / "gone.png")
    object.__setattr__(gone, "signature", "f" * 24)
    write_pictures(tmp_path / "p", [(gone, (0, 0, 9, 9)), (image, (0, 0, 9, 9))], 1, lambda: None)
    assert [file.name for file in (tmp_path / "p").iterdir()] == [picture_name(image, (0, 0, 9, 9))]


def test_pictures_of_others_are_left_alone(tmp_path: Path) -> None:
    image, folder = image_of(tmp_path), tmp_path / "pictures"
    write_pictures(folder, [(image, (0, 0, 40, 30))], 1, lambda: None)
    for name in ("holiday.jpg", "0123456789ab.jpg", "2026-01-02-03-04.jpg"):
        (folder / name).write_bytes(b"a photo")
    remove_others(folder, [])
    assert {file.name for file in folder.iterdir()} == {
        "holiday.jpg",
        "0123456789ab.jpg",
        "2026-01-02-03-04.jpg",
    }


def test_an_image_that_a_set_lists_twice_is_written_once(tmp_path: Path) -> None:
    image, counted = image_of(tmp_path), []
    wanted = [(replace(image, image_id=number), (0, 0, 40, 30)) for number in (7, 8)]
    write_pictures(tmp_path / "pictures", wanted, 2, lambda: counted.append(1))
    assert len(list((tmp_path / "pictures").iterdir())) == 1 and len(counted) == 1
