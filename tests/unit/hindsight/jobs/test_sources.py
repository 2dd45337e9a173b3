"""Which files a command line of `hindsight detect` names."""

from __future__ import annotations

import inspect
import os
import sys
import time
from pathlib import Path

import pytest

from hindsight.errors import OptionError
from hindsight.jobs.sources import JOURNAL_NAME, find_sources, is_one_file, read_list
from hindsight.jobs.targets import annotation_targets, label_targets


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "photos/b.jpg", "photos/a.png", "photos/deep/er/c.webp", "photos/notes.txt", "photos/.hidden.jpg",
        "photos/.cache/d.jpg", "photos/clip.mp4", "photos/code.ts", "odd/img[1].jpg",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def files(*given: str, recursive: bool = True, own: tuple[Path, ...] = ()) -> list[str]:
    return [source.file for source in find_sources(given, recursive=recursive, own=own).files]


def test_a_folder_is_its_images_and_those_of_its_folders_without_hidden_ones() -> None:
    found = find_sources(["photos"])
    assert [source.file for source in found.files] == [
        "photos/a.png",
        "photos/b.jpg",
        "photos/deep/er/c.webp",
    ]
    assert [str(source.relative) for source in found.files] == ["a.png", "b.jpg", "deep/er/c.webp"]
    assert found.problems == []
    assert found.notes == [
        "photos: 1 video in this folder left out; a pattern such as 'photos/*.mp4' takes them"
    ]
    assert files("photos", recursive=False) == ["photos/a.png", "photos/b.jpg"]


def test_what_is_named_twice_is_looked_at_once_in_the_order_of_the_first() -> None:
    assert files("photos/b.jpg", "photos", "photos/*.png") == [
        "photos/b.jpg", "photos/a.png", "photos/deep/er/c.webp",
    ]  # fmt: skip


def test_a_quoted_pattern_takes_images_and_videos() -> None:
    assert files("photos/**/*.*", recursive=False) == [
        "photos/a.png", "photos/b.jpg", "photos/clip.mp4", "photos/code.ts", "photos/deep/er/c.webp",
    ]  # fmt: skip
    assert files("photos/**") == files("photos/**/*.*")
    assert files("photos/*") == ["photos/a.png", "photos/b.jpg", "photos/clip.mp4", "photos/code.ts",
                                 "photos/deep/er/c.webp"]  # fmt: skip


def test_a_name_with_brackets_that_is_there_is_no_pattern() -> None:
    assert files("odd/img[1].jpg") == ["odd/img[1].jpg"]
    assert is_one_file("odd/img[1].jpg") and not is_one_file("odd/img[2].jpg")
    assert is_one_file("nowhere.jpg") and not is_one_file("-") and not is_one_file("photos")


def test_patterns_and_folders_without_images_are_problems() -> None:
    Path("films").mkdir()
    Path("films/one.mp4").touch()
    found = find_sources(["nothing*", "photos/*.txt", "films", "odd/nope[1].jpg"])
    assert found.files == []
    assert found.problems[0] == "nothing*: there is no such file, and nothing matches it as a pattern"
    assert found.problems[1] == "photos/*.txt: matches no images and no videos (looked at the files' names)"
    assert found.problems[2].startswith("films: no images in this folder")
    assert found.problems[2].endswith("its 1 video can be named by a pattern such as 'films/*.mp4'")
    assert len(found.problems) == 4


def test_a_file_that_was_named_is_taken_whatever_its_name() -> None:
    assert files("photos/notes.txt", "nowhere.jpg") == ["photos/notes.txt", "nowhere.jpg"]


def test_links_are_followed_and_a_folder_is_walked_once(photos: Path) -> None:
    (photos / "deep" / "round").symlink_to(photos)
    (photos / "elsewhere").symlink_to(photos.parent / "odd")
    assert files("photos") == [
        "photos/a.png", "photos/b.jpg", "photos/deep/er/c.webp", "photos/elsewhere/img[1].jpg",
    ]  # fmt: skip


def test_what_the_job_writes_and_results_of_another_are_no_input(photos: Path) -> None:
    for folder in ("drawn", "results/pictures"):
        (photos / folder).mkdir(parents=True)
        (photos / folder / "z.jpg").touch()
    (photos / "results" / JOURNAL_NAME).touch()
    assert files("photos", own=(Path("photos/drawn"),)) == [
        "photos/a.png", "photos/b.jpg", "photos/deep/er/c.webp",
    ]  # fmt: skip
    assert files("photos/drawn", own=(Path("photos/drawn"),)) == ["photos/drawn/z.jpg"], "it was named itself"


@pytest.mark.parametrize("absolute", [False, True])
def test_nor_are_they_for_a_pattern(photos: Path, absolute: bool) -> None:
    for folder in ("drawn/deep", "results/pictures"):
        (photos / folder).mkdir(parents=True)
        (photos / folder / "z.jpg").touch()
    (photos / "results" / JOURNAL_NAME).touch()
    own = (Path("photos/drawn"),)
    root = f"{photos}/" if absolute else "photos/"
    for pattern in ("**/*.jpg", "*", "**/z.jpg", "**"):
        assert not any("z.jpg" in file for file in files(root + pattern, own=own)), pattern
    assert files(root + "**/*.jpg", own=own) == [root + "b.jpg"]
    for pattern in ("drawn/**/*.jpg", "drawn/*", "drawn/**"):
        assert files(root + pattern, own=own) == [root + "drawn/deep/z.jpg"], "it was named itself"


def test_a_folder_that_cannot_be_read_costs_only_what_is_in_it(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = Path.iterdir

    def refuse(path: Path):  # type: ignore[no-untyped-def]
        if path.name == "deep":
            raise PermissionError(13, "Permission denied")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", refuse)
    found = find_sources(["photos"])
    assert [source.file for source in found.files] == ["photos/a.png", "photos/b.jpg"]
    assert found.problems == ["photos/deep: cannot be read (Permission denied)"]


def test_a_list_is_split_at_newlines_or_nul_bytes() -> None:
    assert read_list(b"a b.jpg\r\n\nsub/c.jpg") == ["a b.jpg", "sub/c.jpg"]
    assert read_list(b"two\nlines.jpg\0b.jpg\0") == ["two\nlines.jpg", "b.jpg"]
    assert os.fsencode(read_list(b"caf\xe9.jpg\n")[0]) == b"caf\xe9.jpg"


def test_annotated_pictures_lie_as_their_images_do_and_never_on_each_other() -> None:
    Path("more").mkdir()
    for name in ("a.png", "a.gif", "clip.webm"):
        Path("more", name).touch()
    sources = find_sources(["photos", "more", "more/clip.webm"]).files
    targets = annotation_targets(Path("out"), sources, single=False)
    assert [str(target) for target in targets.values()] == [
        "out/a.png", "out/b.jpg", "out/deep/er/c.webp", "out/a-2.png", "out/a-3.png", "out/clip.mp4",
    ]  # fmt: skip
    labels = label_targets(sources)
    assert [str(name) for name in labels.values()] == [
        "a.txt", "b.txt", "deep/er/c.txt", "a-2.txt", "a-3.txt", "clip.txt",
    ]  # fmt: skip


def test_a_video_is_drawn_into_a_video() -> None:
    sources = find_sources(["photos/clip.mp4"]).files
    assert annotation_targets(Path("drawn.mkv"), sources, single=True) == {
        Path("photos/clip.mp4"): Path("drawn.mkv")
    }
    with pytest.raises(OptionError, match=r"--annotate writes \.mkv, \.mov, \.mp4, got drawn\.png"):
        annotation_targets(Path("drawn.png"), sources, single=True)
    with pytest.raises(OptionError, match="would overwrite"):
        annotation_targets(Path("photos/clip.mp4"), sources, single=True)


def test_an_address_is_named_as_it_was_given() -> None:
    found = find_sources(["http://example.org/a.jpg", "photos/b.jpg"])
    (problem,) = found.problems
    assert problem.startswith("http://example.org/a.jpg: ") and "no address" in problem
    assert [source.file for source in found.files] == ["photos/b.jpg"]


def test_names_that_are_too_long_are_files_that_cannot_be_read() -> None:
    for text in ("n" * 300, f"photos/{'n' * 300}.jpg", "x/" * 3000 + "a.jpg"):
        assert files(text) == [text] and is_one_file(text)


def test_folders_that_nobody_may_look_into_are_problems_or_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that can be listed but not entered: the system refuses to say what its names are."""

    def refused(path: object, *arguments: object, **options: object) -> os.stat_result:
        if str(path).startswith("photos/deep/"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *arguments, **options)  # type: ignore[arg-type]

    stat = os.stat
    monkeypatch.setattr(os, "stat", refused)
    assert files("photos") == ["photos/a.png", "photos/b.jpg"]
    assert files("photos/deep/er/c.webp") == ["photos/deep/er/c.webp"], "reading it will say why"


def test_folders_may_be_nested_deeper_than_functions() -> None:
    depth = 60
    Path("deep", *"d" * depth).mkdir(parents=True)
    Path("deep", *"d" * depth, "a.png").touch()
    here = len(inspect.stack())
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(here + depth)
    try:
        found = files("deep")
    finally:
        sys.setrecursionlimit(limit)
    assert found == ["deep/" + "d/" * depth + "a.png"]


def test_links_that_lead_around_in_circles_are_walked_once(photos: Path) -> None:
    (photos / "deep" / "up").symlink_to(photos)
    (photos / "loop").symlink_to(photos / "loop")
    (photos / "twin.jpg").symlink_to(photos / "b.jpg")
    assert files("photos", own=(photos / "loop",)) == [
        "photos/a.png", "photos/b.jpg", "photos/deep/er/c.webp", "photos/twin.jpg",
    ]  # fmt: skip


def test_thousands_of_files_of_one_name_are_told_apart_soon() -> None:
    """A list may name frame.jpg of each of many folders."""
    many = find_sources([f"{number}/frame.jpg" for number in range(20_000)]).files
    began = time.process_time()
    names = label_targets(many)
    assert time.process_time() - began < 20, "each looks for a name from the first one on"
    assert len(set(names.values())) == 20_000
    assert names[Path("0/frame.jpg")] == Path("frame.txt")
    assert names[Path("19999/frame.jpg")] == Path("frame-20000.txt")


def test_a_folder_that_may_not_be_written_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(OptionError, match="--annotate drawn: this folder may not be written to"):
        annotation_targets(Path("drawn"), find_sources(["photos"]).files, single=False)
