"""Model folders made by somebody else: nothing in one makes the reader leave it, or take all memory.

No archive is ever unpacked: a model is a folder. What would be a zip-slip is a path in the manifest, a link,
or the place that an ONNX file names for its weights.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from hindsight.artifact import find_artifact, load_artifact, write_artifact_manifest
from hindsight.errors import ArtifactError, ModelNotFound, RuntimeFailure
from hindsight.runtime import open_runtime
from service.worker import blank_input
from tests.factories import make_tiny_artifact
from tests.server_process import REPOSITORY

UNPACKERS = ("zipfile", "tarfile", "unpack_archive", "pickle", "shelve", "marshal", "yaml.load(", "urlopen")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_tiny_artifact(tmp_path / "models" / "tiny").path


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))


def test_what_serves_unpacks_no_archive_and_reads_no_pickle() -> None:
    for package in ("hindsight", "service"):
        for source in (REPOSITORY / package).rglob("*.py"):
            if source.parent.name == "hub":  # `hindsight pull` reads zips; no server imports it
                continue
            text = source.read_text(encoding="utf-8")
            assert not [name for name in UNPACKERS if name in text], source


@pytest.mark.parametrize(
    "name", ["../tiny", "/etc", "..", ".", "", "a\0b", "tiny/../tiny", "~root", "tiny\n"]
)
def test_names_of_models_are_not_paths(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HINDSIGHT_MODELS", str(folder.parent))
    monkeypatch.chdir("/")
    with pytest.raises((ModelNotFound, ArtifactError)):
        find_artifact(name)


@pytest.mark.parametrize(
    "name", ["../tiny", "a/b", "a\\b", "..", ".hidden", "", "a b", "a\n", "\x1b[31m", "é", "a\0"]
)
def test_a_manifest_cannot_give_a_model_such_a_name(folder: Path, name: str) -> None:
    rewrite(folder, lambda document: document.update(name=name))
    with pytest.raises(ArtifactError, match="name"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_detections", 10**9),
        ("max_detections", 10**400),
        ("max_rescore_boxes", 10**9),
        ("version", "1\r\nSet-Cookie: x"),
        ("version", "\x1b[2J"),
        ("version", "\ud800"),
        ("description", "\udfff"),
        ("classes", [{"name": "\x1b]0;x\x07", "colour": "#000000"}]),
        ("classes", [{"name": f"class {index}", "colour": "#000000"} for index in range(100_001)]),
        ("resize", {"short_side": 10**6, "long_side": 10**6, "pad_multiple": 32}),
        ("resize", {"short_side": 64, "long_side": 64, "pad_multiple": 10**9}),
        ("defaults", {"class_threshold": 10**400, "score_threshold": 0, "iou_weight": 0, "nms_threshold": 1}),
        ("defaults", {"class_threshold": True, "score_threshold": 0, "iou_weight": 0, "nms_threshold": 1}),
        ("files", {"model.onnx": "0" * 64, "../../../../etc/passwd": "0" * 64}),
        ("files", {"model.onnx": "0" * 64, "/etc/passwd": "0" * 64}),
        ("files", ["model.onnx"]),
    ],
)
def test_absurd_manifests_are_refused(folder: Path, key: str, value: object) -> None:
    rewrite(folder, lambda document: document.update({key: value}))
    with pytest.raises(ArtifactError) as caught:
        load_artifact(folder)
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[" * 1_000_000, id="deep lists"),
        pytest.param('{"a":' * 500_000, id="deep objects"),
        pytest.param('{"format_version": ' + "9" * 100_000 + "}", id="a number of 100000 digits"),
        pytest.param('{"format_version": NaN}', id="NaN"),
        pytest.param("\x00\xff", id="bytes"),
    ],
)
def test_manifests_that_are_bombs_are_refused(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(ArtifactError):
        load_artifact(folder)


def test_a_manifest_of_a_gigabyte_is_refused_unread(folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with (folder / "manifest.json").open("wb") as stream:
        stream.truncate(2**30)  # takes no disk
    with pytest.raises(ArtifactError, match="larger than"):
        load_artifact(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize("graph", ["model.onnx", "rescore.onnx"])
@pytest.mark.parametrize("place", ["../outside.bin", "ABSOLUTE", "samples/../../outside.bin"])
def test_weights_of_an_onnx_file_outside_its_folder_are_not_read(
    folder: Path, graph: str, place: str
) -> None:
    """The hashes are right: whoever made the folder made them. The file is there, and would fit."""
    outside = folder.parent / "outside.bin"
    outside.write_bytes((folder / "weights.bin").read_bytes())
    model = onnx.load(folder / graph, load_external_data=False)
    moved = 0
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str(outside) if place == "ABSOLUTE" else place
                moved += 1
    assert moved > 0
    (folder / graph).write_bytes(model.SerializeToString())
    write_artifact_manifest(folder, load_artifact(folder, verify=False).manifest)
    artifact = load_artifact(folder)
    images, sizes = blank_input(artifact.manifest.resize)
    inputs = {
        "images": images,
        "image_sizes": sizes,
        "boxes": np.array([[[0, 0, 16, 16]]], np.float32),
        "num_boxes": np.array([1], np.int64),
    }
    with pytest.raises(RuntimeFailure):  # a server's worker does both before it says that it is ready
        open_runtime("onnxruntime", artifact).rescore(inputs)
