"""Annotated pictures and videos know what they were drawn from, and nothing else is written over."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hindsight.errors import OptionError
from hindsight.jobs.journal import JobError
from hindsight.jobs.marks import clear_way, mark_of, may_write
from hindsight.jobs.work import save_picture
from hindsight.video_writer import VideoWriter
from hindsight.whole_files import draft_of
from tests.factories import encode, tiles_image

PICTURES = ["a.png", "a.jpg", "a.jpeg", "a.webp"]


def noise(height: int = 400, width: int = 600, seed: int = 0) -> Image.Image:
    """Its file is far longer than what is looked at of it."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_written_over_by_the_next_of_its_source_alone(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    assert may_write(target, "photos/p.jpg")
    for picture in (noise(), noise(500, 300)):
        save_picture(picture, target, "photos/p.jpg")
        with Image.open(target) as written:
            assert written.size == picture.size
    assert may_write(target, os.path.abspath("photos/p.jpg"))
    assert not may_write(target, "other/p.jpg")
    before = target.read_bytes()
    with pytest.raises(OptionError, match=r"was not drawn from other/p\.jpg and is left as it is"):
        save_picture(noise(), target, "other/p.jpg")
    assert target.read_bytes() == before and b"photos" not in before
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_so_is_a_video(tmp_path: Path, name: str) -> None:
    with VideoWriter(tmp_path / name, comment=mark_of("clip.avi")) as writer:
        for number in range(60):
            writer.write(np.asarray(noise(96, 160, number)), number / 10)
    assert (tmp_path / name).stat().st_size > 50_000
    assert may_write(tmp_path / name, "clip.avi") and not may_write(tmp_path / name, "clip.mp4")


def test_others_files_links_folders_and_pipes_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs.png").write_bytes(encode(tiles_image()))
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "leads-nowhere.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    for path in tmp_path.iterdir():
        assert not may_write(path, "p.png"), path.name


def test_of_many_the_first_is_named(tmp_path: Path) -> None:
    targets = {Path(f"{number}.png"): tmp_path / f"{number}.png" for number in range(5)}
    clear_way(targets, {})
    for number in (1, 2, 4):
        targets[Path(f"{number}.png")].write_bytes(b"theirs")
    with pytest.raises(
        OptionError, match=r"1\.png is there already and was not drawn from 1\.png, nor are 2 more"
    ):
        clear_way(targets, {})
    with pytest.raises(
        OptionError, match=r"4\.png is there already and was not drawn from 4\.png: move it away"
    ):
        clear_way(targets, {str(tmp_path / f"{number}.png"): f"{number}.png" for number in (1, 2)})


def test_what_the_job_drew_of_another_file_makes_way(tmp_path: Path) -> None:
    """a.bmp and a.png became a.png and a-2.png; without a.bmp, a.png is a.png's."""
    for name, file in (("a.png", "photos/a.bmp"), ("b.png", "photos/b.bmp")):
        save_picture(noise(), tmp_path / name, file)
    targets = {Path("photos/a.png"): tmp_path / "a.png"}
    with pytest.raises(OptionError, match=r"was not drawn from photos/a\.png"):
        clear_way(targets, {})
    with pytest.raises(OptionError, match=r"was not drawn from photos/a\.png"):
        clear_way(targets, {str(tmp_path / "a.png"): "photos/other.bmp"})
    assert (tmp_path / "a.png").exists()
    clear_way(targets, {str(tmp_path / "a.png"): "photos/a.bmp", str(tmp_path / "b.png"): "photos/b.bmp"})
    assert not (tmp_path / "a.png").exists() and (tmp_path / "b.png").exists()


def test_a_disk_that_takes_no_picture_is_no_fault_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(JobError, match=r"cannot write .*a\.png \(No space left on device\)"):
        save_picture(noise(), tmp_path / "a.png", "p.png")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_just_short_enough_can_be_written(tmp_path: Path) -> None:
    for stem in ("n" * 251, "ä" * 125):
        target = tmp_path / f"{stem}.png"
        save_picture(noise(), target, "p.png")
        assert target.is_file()
        assert draft_of(target) != draft_of(tmp_path / f"{stem[:-1]}.png")
    assert len(list(tmp_path.iterdir())) == 2
