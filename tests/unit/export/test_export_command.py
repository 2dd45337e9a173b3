"""What `hindsight export` refuses, in one line, before it spends minutes on tracing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from export.cli import export
from export.errors import ExportError
from export.to_onnx import palette, sample_files
from model.checkpoint import save_checkpoint
from model.config import BackboneConfig, HeadConfig
from model.detector import TwoStageDetector
from model.zoo import config_of

RESIZE = {"short_side": 64, "long_side": 96, "pad_multiple": 32}


@pytest.fixture(scope="module")
def detector() -> TwoStageDetector:
    config = config_of("faster_rcnn_dir", 2)
    backbone = BackboneConfig("test_efficientnet", min_level=3, fpn_channels=8, frozen_levels=0)
    rpn = replace(config.rpn, anchor_sizes=(32, 64, 128, 256))
    localization = replace(config.localization, width=8)  # type: ignore[type-var]
    head = HeadConfig(kind="shared", stages=1, width=8)
    return TwoStageDetector(replace(config, backbone=backbone, rpn=rpn, head=head, localization=localization))


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(export)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("hindsight: ")
    for word in words:
        assert word in line


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    assert_refused(run(tmp_path / "none.safetensors", "--out", tmp_path / "out"), "none.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("not tensors")
    assert_refused(run(tmp_path / "text.safetensors", "--out", tmp_path / "out"), "safetensors")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({}, ["names no classes or no resize rule"]),
        ({"class_names": ["a"], "resize": RESIZE}, ["2 classes", "names 1"]),
        ({"class_names": ["a", "b"], "resize": {"short_side": 3}}, ["resize rule"]),
    ],
)
def test_a_checkpoint_that_lacks_what_the_manifest_needs(
    tmp_path: Path, detector: TwoStageDetector, extra: dict[str, object], words: list[str]
) -> None:
    save_checkpoint(tmp_path / "toy.safetensors", detector, extra)
    assert_refused(run(tmp_path / "toy.safetensors", "--out", tmp_path / "out"), *words)


def test_bad_arguments_write_nothing(tmp_path: Path, detector: TwoStageDetector) -> None:
    checkpoint, out = tmp_path / "toy.safetensors", tmp_path / "out"
    save_checkpoint(checkpoint, detector, {"class_names": ["a", "b"], "resize": RESIZE})
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text(json.dumps([1]))
    (tmp_path / "empty").mkdir()
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "notes.txt").write_text("mine")
    assert_refused(run(checkpoint, "--out", out, "--weights", "int4"), "int4", "fp16")
    assert_refused(run(checkpoint, "--out", out, "--metrics", tmp_path / "broken.json"), "broken.json")
    assert_refused(run(checkpoint, "--out", out, "--metrics", tmp_path / "list.json"), "JSON object")
    assert_refused(run(checkpoint, "--out", out, "--samples", tmp_path / "none"), "folder of images")
    assert_refused(run(checkpoint, "--out", out, "--samples", tmp_path / "empty"), "no image")
    assert_refused(run(checkpoint, "--out", out, "--class-threshold", "1.5"), "class_threshold", "1.5")
    assert_refused(run(checkpoint, "--out", out, "--nms-threshold", "nan"), "nms_threshold")
    assert_refused(run(checkpoint, "--out", out, "--name", "a b"), "name")
    assert_refused(run(checkpoint, "--out", taken), "no artifact")
    assert_refused(run(checkpoint, "--out", checkpoint), "is a file")
    assert not out.exists()
    assert [path.name for path in taken.iterdir()] == ["notes.txt"]


def test_palette_gives_different_colours() -> None:
    assert len(set(palette(80))) == 80


def test_samples_take_the_notes_beside_the_images(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.png", "LICENCE.txt", ".hidden"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in sample_files(tmp_path)] == ["LICENCE.txt", "a.png", "b.jpg"]
    with pytest.raises(ExportError, match="folder of images"):
        sample_files(tmp_path / "b.jpg")
