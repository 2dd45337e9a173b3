"""`hindsight export --to tensorrt`: what it refuses, and a builder that dies: one line, nothing left."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from export import tensorrt_command
from export.cli import export
from export.errors import ExportError
from export.tensorrt_command import target_of
from export.tensorrt_shapes import (
    default_sizes,
    detection_buckets,
    parse_batches,
    parse_sizes,
    rescoring_buckets,
)
from export.to_tensorrt import Target, build_engine
from hindsight.artifact import Artifact, ResizeRule, load_artifact
from hindsight.engines import Bucket, engines_folder
from tests.factories import make_tiny_artifact
from tests.unit.export.pretend import TARGET, shadow


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "tiny")


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(export)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("hindsight: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("sys.stderr.write('one\\ntwo\\nno room\\nfor kernels\\n'); sys.stderr.flush(); os.abort()",
         ["its process died of SIGABRT", "two | no room | for kernels"]),
        ("raise SystemExit(3)", ["exit status 3", "it said nothing"]),
        ("os._exit(0)", ["exit status 0"]),
        ("raise MemoryError('no memory left')", ["exit status 1", "MemoryError: no memory left"]),
    ],
)  # fmt: skip
def test_a_builder_that_dies_is_one_line_with_its_last_words_and_leaves_nothing(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, words: list[str]
) -> None:
    shadow(monkeypatch, tmp_path / "shadow", behaviour)
    kept = engines_folder(artifact) / "kept"
    kept.mkdir(parents=True)
    options = ["--precision", "fp32", "--gpu", "8.9", "--batch", "1", "--size", "64x64"]
    result = run(artifact.path, "--to", "tensorrt", *options)
    assert_refused(result, "TensorRT built no engine", *words)
    assert list(engines_folder(artifact).iterdir()) == [kept]
    load_artifact(artifact.path)


def test_what_the_command_refuses(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensorrt_command, "installed_flavour", lambda: "tensorrt_rtx")
    here = (artifact.path, "--to", "tensorrt")
    assert_refused(run(artifact.path, "--to", "openvino"), "--to must be onnx or tensorrt, got 'openvino'")
    assert_refused(run("nothing", "--to", "tensorrt"), "no model named 'nothing'", "cells")
    assert_refused(run(*here, "--out", tmp_path / "x"), "--out is for checkpoints")
    assert_refused(run(tmp_path / "a.safetensors"), "--out is missing")
    assert_refused(
        run(artifact.path), "a .safetensors checkpoint", "for an engine of a model add --to tensorrt"
    )
    assert_refused(run("cells", "--out", tmp_path / "x"), "'cells'", "add --to tensorrt")
    int8 = run(*here, "--gpu", "8.9", "--precision", "int8")
    assert_refused(int8, "--precision must be one of fp16, bf16, fp32, got 'int8'")
    assert "building" not in int8.stderr
    assert_refused(run(*here, "--gpu", "8.9"), "no convolution and no matrix product")
    assert_refused(run(*here, "--gpu", "H100"), "--gpu must be any, or compute capabilities")
    assert_refused(run(*here, "--batch", "1,0"), "--batch must be whole numbers in 1..1024", "'1,0'")
    assert_refused(run(*here, "--size", "800"), "--size must be HEIGHTxWIDTH")
    assert_refused(run(*here, "--size", "800x1333"), "multiples of 32", "say 800x1344")
    assert_refused(run(*here, "--plugin-library", tmp_path / "p.so"), "there is no", "p.so")
    assert not any(engines_folder(artifact).glob("*"))


def test_help_shows_the_defaults_that_are_worked_out() -> None:
    text = " ".join(run("--help").output.replace("\u2502", " ").split())
    assert "(default: 1,8)" in text and "(default: from the resize rule)" in text
    assert "(default: this GPU)" in text and "(default: the folder's)" in text


def test_without_tensorrt_the_extra_is_named(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.to_tensorrt.find_spec", lambda name: None)
    assert_refused(run(artifact.path, "--to", "tensorrt"), 'pip install ".[tensorrt]"')


def test_a_folder_that_cannot_be_written_is_an_error(artifact: Artifact) -> None:
    engines_folder(artifact).write_text("in the way")
    with pytest.raises(ExportError, match="copy the model folder and export the copy"):
        build_engine(artifact, TARGET, precision="fp32", batches=[1], sizes=[(64, 64)])


def test_targets() -> None:
    assert target_of("tensorrt_rtx", "8.9, 12.0") == Target(
        "tensorrt_rtx", "any", ("8.9", "12.0"), "sm89-sm120"
    )
    everywhere = target_of("tensorrt_rtx", "any")
    assert everywhere.label == "any" and "8.9" in everywhere.capabilities
    with pytest.raises(ExportError, match="tensorrt builds for the GPU of the machine it runs on"):
        target_of("tensorrt", "any")


def test_default_shapes_hold_every_image_of_the_resize_rule() -> None:
    assert default_sizes(ResizeRule(800, 1333)) == ((800, 1088), (1088, 800), (800, 1344), (1344, 800))
    assert default_sizes(ResizeRule(480, 640)) == ((480, 640), (640, 480))
    assert default_sizes(ResizeRule(640, 640)) == ((640, 640),)
    assert default_sizes(ResizeRule(20, 20)) == ((32, 32),)


def test_shapes_are_read_in_order_and_once() -> None:
    rule = ResizeRule(480, 640)
    assert parse_batches(None) == (1, 8)
    assert parse_batches("8, 1,8") == (1, 8)
    assert parse_sizes("64x96,96x64,64x96", rule) == ((64, 96), (96, 64))
    assert parse_sizes(None, rule) == default_sizes(rule)
    assert detection_buckets((1, 2), ((64, 96),)) == (Bucket(1, 64, 96), Bucket(2, 64, 96))
    assert [bucket.boxes for bucket in rescoring_buckets((1,), ((64, 96),), 1000)] == [128, 1000]
    assert [bucket.boxes for bucket in rescoring_buckets((1,), ((64, 96),), 50)] == [50]
