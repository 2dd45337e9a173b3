"""A model folder is trusted only as far as its manifest vouches for every file in it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hindsight.artifact import (
    Artifact,
    ClassInfo,
    find_artifact,
    list_artifacts,
    load_artifact,
    scan_artifacts,
    write_artifact_manifest,
)
from hindsight.errors import ArtifactError, ModelNotFound, OptionError
from hindsight.manifest import parse_manifest
from hindsight.places import ModelsFolderWarning
from tests.factories import make_tiny_artifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_artifact(tmp_path / "tiny").path


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))


def test_what_was_written_is_read_back(folder: Path) -> None:
    artifact = load_artifact(folder)
    assert parse_manifest(json.loads(json.dumps(artifact.manifest.to_json()))) == artifact.manifest
    assert write_artifact_manifest(folder, artifact.manifest) == artifact.manifest
    assert artifact.rescore_path == folder / "rescore.onnx"
    assert [sample.name for sample in artifact.samples] == ["tiles.jpg"]
    assert artifact.model_card is not None and artifact.model_card.startswith("# tiny")
    assert set(artifact.manifest.files) == {
        "MODEL_CARD.md", "model.onnx", "rescore.onnx", "samples/tiles.jpg", "weights.bin",
    }  # fmt: skip


def test_only_a_model_with_masks_says_so(folder: Path) -> None:
    plain = load_artifact(folder).manifest
    assert not plain.has_masks and "has_masks" not in plain.to_json()  # readable by what knows no masks
    masked = write_artifact_manifest(folder, dataclasses.replace(plain, has_masks=True))
    assert load_artifact(folder).manifest == masked and masked.has_masks


def test_numbers_that_json_cannot_hold_are_refused(folder: Path) -> None:
    edit(folder, lambda document: document["metrics"].update(AP=float("nan")))
    with pytest.raises(ArtifactError, match="not valid JSON"):
        load_artifact(folder)


def test_files_that_cannot_be_read_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_artifact(folder)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ArtifactError, match=r"manifest\.json: cannot be read"):
        load_artifact(folder)


def test_a_model_without_localization_has_no_rescore_path(tmp_path: Path) -> None:
    plain = make_tiny_artifact(tmp_path / "plain", localization=False)
    assert plain.rescore_path is None
    with pytest.raises(OptionError, match="model tiny has no localization head, so it cannot rescore boxes"):
        plain.require_rescoring()


@pytest.mark.parametrize(
    "name", ["model.onnx", "rescore.onnx", "weights.bin", "samples/tiles.jpg", "MODEL_CARD.md"]
)
def test_a_changed_byte_in_any_file_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name} is not the file the manifest lists"):
        load_artifact(folder)
    load_artifact(folder, verify=False)


@pytest.mark.parametrize("verify", [True, False])
def test_a_missing_file_is_found(folder: Path, verify: bool) -> None:
    (folder / "weights.bin").unlink()
    with pytest.raises(ArtifactError, match=r"weights\.bin is listed in manifest\.json but missing"):
        load_artifact(folder, verify=verify)


@pytest.mark.parametrize("name", ["extra.onnx", "weights2.bin", "samples/other.jpg"])
def test_an_unlisted_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"?")
    with pytest.raises(ArtifactError, match="not listed"):
        load_artifact(folder)


def test_engines_and_file_manager_clutter_are_nobodys_business(folder: Path) -> None:
    (folder / "engines" / "gpu-1").mkdir(parents=True)
    (folder / "engines" / "gpu-1" / "model.plan").write_bytes(b"?")
    (folder / ".DS_Store").write_bytes(b"?")
    load_artifact(folder)


def test_a_newer_format_says_to_upgrade(folder: Path) -> None:
    def newer(document: dict[str, Any]) -> None:
        document["format_version"] = 7
        document["something_new"] = {}

    edit(folder, newer)
    with pytest.raises(
        ArtifactError, match="made by a newer Hindsight, format 7; this one reads up to 1: upgrade"
    ):
        load_artifact(folder)


@pytest.mark.parametrize(
    "path",
    ["../secret", "/etc/passwd", "a/../../secret", "", ".", "C:/x", "a\\b", "samples//x", "./model.onnx"],
)
def test_paths_that_lead_elsewhere_are_refused(folder: Path, path: str) -> None:
    (folder.parent / "secret").write_bytes(b"x")
    edit(folder, lambda document: document["files"].update({path: "0" * 64}))
    with pytest.raises(ArtifactError, match="inside the model folder"):
        load_artifact(folder, verify=False)


def test_links_out_of_the_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "weights.bin"
    (folder / "weights.bin").rename(outside)
    (folder / "weights.bin").symlink_to(outside)
    with pytest.raises(ArtifactError, match="link out of the model folder"):
        load_artifact(folder)
    with pytest.raises(ArtifactError, match="link out of the model folder"):
        write_artifact_manifest(folder, find_manifest(folder))


def test_linked_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.bin").write_bytes(b"x")
    (folder / "more").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(ArtifactError, match="not listed"):
        load_artifact(folder)


def test_a_model_folder_that_is_itself_a_link_is_fine(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder, target_is_directory=True)
    assert load_artifact(tmp_path / "alias").manifest.name == "tiny"


def find_manifest(folder: Path) -> Any:
    return parse_manifest(json.loads((folder / "manifest.json").read_text()))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '"x"', "{}", '{"format_version": "1"}', '{"format_version": true}', "[" * 100_000]
)
def test_what_is_no_manifest_is_an_artifact_error(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", []),
        ("classes", "red"),
        ("classes", [{"name": "a", "colour": "red"}]),
        ("classes", [{"name": "a", "colour": "#000000"}, {"name": "a", "colour": "#000000"}]),
        ("max_detections", 0),
        ("max_detections", "many"),
        ("has_localization", 1),
        ("has_masks", 1),
        ("nms_kind", "greedy"),
        ("defaults", {"class_threshold": 2, "score_threshold": 0, "iou_weight": 0, "nms_threshold": 0.5}),
        (
            "defaults",
            {"class_threshold": float("nan"), "score_threshold": 0, "iou_weight": 0, "nms_threshold": 1},
        ),
        ("defaults", {"class_threshold": 0.1}),
        ("resize", {"short_side": 640, "long_side": 480, "pad_multiple": 32}),
        ("files", {"model.onnx": "abc"}),
        ("files", {}),
        ("name", "../cells"),
        ("surprise", 1),
    ],
)
def test_values_that_make_no_sense_are_refused(folder: Path, key: str, value: object) -> None:
    edit(folder, lambda document: document.update({key: value}))
    with pytest.raises(ArtifactError):
        load_artifact(folder, verify=False)


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        load_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="found nothing"):
        load_artifact(tmp_path / "nowhere")


def test_a_failed_write_leaves_the_old_manifest(folder: Path) -> None:
    before = (folder / "manifest.json").read_bytes()
    bad = dataclasses.replace(load_artifact(folder).manifest, metrics={"AP": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_artifact_manifest(folder, bad)
    assert (folder / "manifest.json").read_bytes() == before
    assert not list(folder.glob(".manifest-*"))


def test_models_are_found_by_name_then_by_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_tiny_artifact(tmp_path / "more" / "other", name="inner")
    monkeypatch.setenv("HINDSIGHT_MODELS", os.pathsep.join([str(tmp_path / "more"), str(folder)]))
    assert find_artifact("other").path == other.path
    assert find_artifact("inner").path == other.path
    assert find_artifact("tiny").path == folder
    assert find_artifact(folder).path == folder
    assert find_artifact(str(folder)).path == folder
    assert {"other", "tiny"} <= {artifact.path.name for artifact in list_artifacts()}


def test_a_folder_of_the_same_name_without_manifest_does_not_hide_a_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HINDSIGHT_MODELS", str(folder))
    work = tmp_path / "work"
    (work / "tiny").mkdir(parents=True)
    monkeypatch.chdir(work)
    assert find_artifact("tiny").path == folder


@pytest.mark.parametrize("name", ["nope", "../tiny", "/nowhere/tiny", ""])
def test_an_unknown_model_is_not_found(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setenv("HINDSIGHT_MODELS", str(folder))
    monkeypatch.chdir(folder / "samples")
    with pytest.raises(ModelNotFound):
        find_artifact(name)


def test_one_bad_model_does_not_hide_the_others(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_artifact(tmp_path / "good")
    (folder / "weights.bin").unlink()
    monkeypatch.setenv("HINDSIGHT_MODELS", str(tmp_path))
    found = dict(scan_artifacts())
    assert isinstance(found["good"], Artifact)
    assert isinstance(found["tiny"], ArtifactError)
    with pytest.raises(ArtifactError):
        list_artifacts()


def test_class_colours_are_checked_when_a_manifest_is_made(folder: Path) -> None:
    with pytest.raises(ArtifactError, match="#rrggbb"):
        dataclasses.replace(load_artifact(folder).manifest, classes=(ClassInfo("a", "red"),))


def test_a_folder_of_models_that_may_not_be_read_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(path: object, *arguments: object, **options: object) -> os.stat_result:
        if str(path).startswith(f"{tmp_path / 'closed'}{os.sep}"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return stat(path, *arguments, **options)  # type: ignore[arg-type]

    stat = os.stat
    (tmp_path / "closed").mkdir()
    monkeypatch.setenv("HINDSIGHT_MODELS", str(tmp_path / "closed"))
    monkeypatch.setattr(os, "stat", refused)
    assert {name for name, _ in scan_artifacts()} >= {"cells", "pcb"}
    with pytest.raises(ModelNotFound):
        find_artifact("nowhere")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_artifact(tmp_path / "closed")


def test_a_file_is_no_model_and_the_message_says_what_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("best.pt", "./model.onnx", str(tmp_path / "last.safetensors")):
        Path(name).touch()
        with pytest.raises(ModelNotFound, match=rf"{Path(name).name} is a file; .*hindsight export"):
            find_artifact(name)


def test_a_version_in_two_folders_is_named_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_tiny_artifact(tmp_path / "made").path
    for folder in ("one", "two"):
        shutil.copytree(made, tmp_path / folder / "tiny")
    monkeypatch.setenv("HINDSIGHT_MODELS", f"{tmp_path / 'one'}{os.pathsep}{tmp_path / 'two'}")
    with pytest.raises(ModelNotFound, match=r"no version '9' of model 'tiny'; there are: [^,]+$"):
        find_artifact("tiny@9")


@pytest.mark.parametrize(("name", "reason"), [("typo", "which is not there"), ("file", "which is no folder")])
def test_a_folder_of_models_that_is_none_is_warned_of(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    """The others are looked into all the same: one may be not mounted today."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("HINDSIGHT_MODELS", os.pathsep.join([str(tmp_path / name), str(folder)]))
    with pytest.warns(ModelsFolderWarning, match=rf"\$HINDSIGHT_MODELS names {tmp_path / name}, {reason}"):
        assert find_artifact("tiny").path == folder
    with pytest.warns(ModelsFolderWarning), pytest.raises(ModelNotFound):
        find_artifact("nowhere")
    find_artifact(folder)  # by its path: no name is looked up
