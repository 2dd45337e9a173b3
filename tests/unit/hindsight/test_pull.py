"""`hindsight pull` of a zip file or a folder: for machines without a network."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import hindsight.hub.install
from hindsight.artifact import find_artifact, load_artifact
from hindsight.errors import ArtifactError
from hindsight.hub.install import install, plan
from hindsight.hub.origin import read_origin
from hindsight.hub.rules import Limits
from hindsight.hub.sources import FolderSource
from tests.factories import make_tiny_artifact

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_artifact(tmp_path / "exported", version="2.0").path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "models"
    monkeypatch.setenv("HINDSIGHT_MODELS", str(path))
    return path


def members(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            yield path.relative_to(folder).as_posix(), path.read_bytes()


def zipped(folder: Path, target: Path, prefix: str = "", **extra: bytes) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*members(folder), *extra.items()]:
            archive.writestr(prefix + name, content)
    return target


@pytest.mark.parametrize("prefix", ["", "tiny-2.0/"])
def test_a_zip_file_is_installed(run: Run, folder: Path, models: Path, tmp_path: Path, prefix: str) -> None:
    status, out, err = run("pull", str(zipped(folder, tmp_path / "tiny.zip", prefix)))
    assert (status, err) == (0, "") and "tiny 2.0" in out
    assert load_artifact(models / "tiny" / "2.0").manifest == load_artifact(folder).manifest
    assert [path.name for path in models.iterdir()] == ["tiny"]
    assert find_artifact("tiny").path == models / "tiny" / "2.0"
    origin = read_origin(models / "tiny" / "2.0")
    assert origin is not None and origin.source.endswith("tiny.zip") and origin.commit is None


def test_a_folder_is_installed_without_what_its_machine_added(run: Run, folder: Path, models: Path) -> None:
    (folder / "engines" / "gpu").mkdir(parents=True)
    (folder / "engines" / "gpu" / "model.engine").write_bytes(b"a program")
    (folder / "origin.json").write_text("{}")
    assert run("pull", str(folder))[0] == 0
    place = models / "tiny" / "2.0"
    assert not (place / "engines").exists()
    origin = read_origin(place)
    assert origin is not None and origin.source == str(folder)


def test_versions_lie_side_by_side_and_the_newest_has_the_name(
    run: Run, models: Path, tmp_path: Path
) -> None:
    for version in ("1.10", "1.9"):
        made = make_tiny_artifact(tmp_path / f"made-{version}", version=version)
        assert run("pull", str(made.path))[0] == 0
    assert find_artifact("tiny").manifest.version == "1.10"
    assert find_artifact("tiny@1.9").manifest.version == "1.9"
    with pytest.raises(Exception, match=r"no version '3' of model 'tiny'; there are: 1\.10, 1\.9"):
        find_artifact("tiny@3")


def test_a_link_is_not_followed(run: Run, folder: Path, models: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes((folder / "samples" / "tiles.jpg").read_bytes())
    (folder / "samples" / "tiles.jpg").unlink()
    (folder / "samples" / "tiles.jpg").symlink_to(secret)
    status, _, err = run("pull", str(folder))
    assert status == 2 and "a link" in err and not models.exists()


def test_a_linked_folder_is_not_followed(run: Run, folder: Path, models: Path, tmp_path: Path) -> None:
    (folder / "samples").rename(tmp_path / "elsewhere")
    (folder / "samples").symlink_to(tmp_path / "elsewhere")
    status, _, err = run("pull", str(folder))
    assert status == 2 and "a link" in err and not models.exists()


def test_a_link_in_a_zip_file_is_refused(run: Run, folder: Path, models: Path, tmp_path: Path) -> None:
    target = zipped(folder, tmp_path / "tiny.zip")
    with zipfile.ZipFile(target, "a") as archive:
        entry = zipfile.ZipInfo("samples/link.jpg")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    status, _, err = run("pull", str(target))
    assert status == 2 and "'samples/link.jpg' is a link" in err and not models.exists()


def test_a_model_that_lies_deeper_is_pointed_at(run: Run, folder: Path, models: Path, tmp_path: Path) -> None:
    target = zipped(folder, tmp_path / "tiny.zip", "my/models/tiny/")
    status, _, err = run("pull", str(target))
    assert status == 2 and "is no model but holds 'models/tiny'; nothing was fetched: give one" in err
    assert len(err.splitlines()) == 1 and not models.exists()


@pytest.mark.parametrize("name", ["../outside.onnx", "/etc/outside.onnx", "model.pkl", "samples/../../x.jpg"])
def test_a_zip_file_leads_nowhere_else(
    run: Run, folder: Path, models: Path, tmp_path: Path, name: str
) -> None:
    target = zipped(folder, tmp_path / "tiny.zip", **{name: b"x"})
    status, _, err = run("pull", str(target))
    assert status == 2 and "has no use for" in err and not models.exists()


def test_a_bomb_is_refused_by_its_size(run: Run, folder: Path, models: Path, tmp_path: Path) -> None:
    (folder / "samples" / "tiles.jpg").write_bytes(bytes(50_000_000))
    target = zipped(folder, tmp_path / "bomb.zip")
    assert target.stat().st_size < 1_000_000
    status, _, err = run("pull", str(target), "--max-size", "0.01")
    assert status == 2 and "--max-size" in err and not models.exists()


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_expands_without_bounds_is_refused(
    run: Run, folder: Path, models: Path, tmp_path: Path, kind: int
) -> None:
    """A few kilobytes of bzip2 are gigabytes in memory, whatever size the zip file's list gives."""
    target = zipped(folder, tmp_path / "tiny.zip")
    with zipfile.ZipFile(target, "a", kind) as archive:
        archive.writestr("NOTICE", bytes(1_000_000))
    status, _, err = run("pull", str(target))
    assert status == 2 and "is compressed in a way" in err and not models.exists()


def test_a_zip_file_with_a_file_twice_is_refused(
    run: Run, folder: Path, models: Path, tmp_path: Path
) -> None:
    target = zipped(folder, tmp_path / "tiny.zip")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(target, "a") as archive:
        archive.writestr("weights.bin", b"xxxx")
    status, _, err = run("pull", str(target))
    assert status == 2 and "twice" in err


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04" + b"x" * 100])
def test_what_is_no_zip_file_is_one_line(run: Run, models: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    status, _, err = run("pull", str(tmp_path / "x.zip"))
    assert status == 2 and err.count("\n") == 1 and "cannot be read as a zip file" in err


def test_a_damaged_zip_file_leaves_nothing(run: Run, folder: Path, models: Path, tmp_path: Path) -> None:
    target = tmp_path / "tiny.zip"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members(folder):
            archive.writestr(name, content)
    data = bytearray(target.read_bytes())
    at = data.index((folder / "model.onnx").read_bytes()[:200]) + 100
    data[at] ^= 0xFF
    target.write_bytes(data)
    status, _, err = run("pull", str(target))
    assert status == 2 and err.count("\n") == 1 and list(models.iterdir()) == []


def test_another_process_that_pulls_the_same_is_waited_for_by_the_user(folder: Path, models: Path) -> None:
    planned = plan(FolderSource(folder), Limits())
    said = []

    def meanwhile(name: str) -> None:
        with pytest.raises(ArtifactError, match="another process") as raised:
            install(planned, models, lambda name: None, lambda count: None)
        said.append(str(raised.value))

    done = install(planned, models, meanwhile, lambda count: None)
    assert said and not done.already and done.artifact.path == models / "tiny" / "2.0"


def test_bytes_are_counted_to_the_last(folder: Path, models: Path) -> None:
    planned = plan(FolderSource(folder), Limits())
    counts: list[int] = []
    install(planned, models, lambda name: None, counts.append)
    assert sum(counts) == planned.total


def test_a_folder_that_cannot_be_written_is_one_line(run: Run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    status, _, err = run("pull", str(folder), "--models", str(tmp_path / "file" / "models"))
    assert status == 2 and "cannot be written" in err and err.count("\n") == 1


def test_no_room_on_the_disk_is_said_first(
    run: Run, folder: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("hindsight.hub.install.shutil.disk_usage", lambda path: usage)
    status, _, err = run("pull", str(folder))
    assert status == 2 and "has room for 0.0 kB" in err


def test_what_an_earlier_try_left_needs_no_room_again(
    folder: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(FolderSource(folder), Limits())
    last = list(planned.files)[-1]

    def stopped(name: str) -> None:
        if name == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        install(planned, models, stopped, lambda count: None)
    free = 64 * 2**20 + planned.files[last]
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("hindsight.hub.install.shutil.disk_usage", lambda path: usage)
    assert not install(planned, models, lambda name: None, lambda count: None).already


def test_who_comes_second_finds_what_the_first_has_put_there(
    folder: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one ends between the second one's look at the place and its begin."""
    planned = plan(FolderSource(folder), Limits())
    check_room = hindsight.hub.install._check_room

    def meanwhile(*arguments: object) -> None:
        monkeypatch.setattr(hindsight.hub.install, "_check_room", check_room)
        assert not install(planned, models, lambda name: None, lambda count: None).already

    monkeypatch.setattr(hindsight.hub.install, "_check_room", meanwhile)
    done = install(planned, models, lambda name: None, lambda count: None)
    assert done.already and done.artifact.path == models / "tiny" / "2.0"
    assert [path.name for path in models.iterdir()] == ["tiny"]


def test_a_name_that_no_file_can_have_is_one_line(run: Run, models: Path) -> None:
    status, _, err = run("pull", "x" * 5000)
    assert status == 2 and err.count("\n") == 1


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "not json", '{"source": 5, "revision": 1, "commit": 2, "pulled": 3}']
)
def test_a_note_that_cannot_be_read_is_no_note(folder: Path, text: str) -> None:
    (folder / "origin.json").write_text(text)
    assert read_origin(folder) is None
    assert load_artifact(folder).manifest.version == "2.0"


def test_names_that_begin_with_a_dot_are_no_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_tiny_artifact(models / ".pull-tiny-1", name="hidden")
    with pytest.raises(Exception, match="no model named 'hidden'"):
        find_artifact("hidden")
    assert os.listdir(models) == [".pull-tiny-1"]
