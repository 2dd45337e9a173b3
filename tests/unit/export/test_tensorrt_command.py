"""`hindsight export --to tensorrt`: what it refuses, and a builder that dies: one line, nothing left."""

from __future__ import annotations

import json
import os
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
from hindsight.engines import Bucket, engines_folder, read_engine
from tests.factories import make_tiny_artifact

TARGET = Target("tensorrt_rtx", "any", ("8.9",), "sm89")

# Stands in for TensorRT in the builder's process: BEHAVIOUR is what happens when it is first used.
MODULE = """
import os, sys
__version__ = "9.9"
class Logger:
    WARNING = 1
    def __init__(self, level):
        {behaviour}
"""


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


def shadow(monkeypatch: pytest.MonkeyPatch, folder: Path, behaviour: str) -> None:
    """Put a module `tensorrt_rtx` before the real one, in the builder's process alone."""
    folder.mkdir()
    (folder / "tensorrt_rtx.py").write_text(MODULE.format(behaviour=behaviour))
    real = tensorrt_command.build_engine.__globals__["_environment"]

    def environment(scratch: Path) -> dict[str, str]:
        found: dict[str, str] = real(scratch)
        return found | {"PYTHONPATH": os.pathsep.join([str(folder), found["PYTHONPATH"]])}

    monkeypatch.setitem(tensorrt_command.build_engine.__globals__, "_environment", environment)
    monkeypatch.setattr(tensorrt_command, "installed_flavour", lambda: "tensorrt_rtx")


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
    assert_refused(run(artifact.path, "--to", "tensorrt"), "install hindsight-detector[tensorrt]")


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


WHOLE = """pass
    def write(self): pass
class NetworkDefinitionCreationFlag: STRONGLY_TYPED = 0
class BuilderFlag: TF32 = 0
class IProgressMonitor:
    def __init__(self): pass
class ComputeCapability: __members__ = {"SM89": 89}
class Layer:
    class type: name = "CONVOLUTION"
class Network:
    num_layers = 2
    def get_layer(self, index): return Layer()
class Shapes(dict):
    def set_shape(self, name, *shapes): self[name] = shapes
class Config:
    def __init__(self): self.profiles, self.set = [], {}
    def clear_flag(self, flag): pass
    def add_optimization_profile(self, shapes): self.profiles.append(dict(shapes)); return 0
    def set_compute_capability(self, value, index): self.set[index] = value
class Builder:
    def __init__(self, logger): pass
    def create_network(self, flags): assert flags == 1; return Network()
    def create_builder_config(self): return Config()
    def create_optimization_profile(self): return Shapes()
    def build_serialized_network(self, network, config):
        import json
        assert config.num_compute_capabilities == 1 and config.set == {0: 89}
        config.progress_monitor.phase_start("tactics", None, 2)
        config.progress_monitor.step_complete("tactics", 0)
        return json.dumps(config.profiles).encode()
class OnnxParser:
    def __init__(self, network, logger): pass
    def parse(self, data): return len(data) > 1000
"""


def test_an_engine_that_is_built_takes_the_place_of_the_one_before(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow(monkeypatch, tmp_path / "shadow", WHOLE)
    # register_plugins wants TensorRT's own classes: here nothing is registered
    (tmp_path / "shadow" / "sitecustomize.py").write_text(
        "import export.plugins.python as plugins\nplugins.register_plugins = lambda trt: ()\n"
    )
    said: list[str] = []
    for batches in ([1], [1, 2]):
        engine = build_engine(
            artifact, TARGET, precision="fp32", batches=batches, sizes=[(64, 96)], progress=said.append
        )
    folder = engines_folder(artifact) / "sm89-tensorrt_rtx9.9-fp32"
    assert engine.folder == folder and list(engines_folder(artifact).iterdir()) == [folder]
    assert engine == read_engine(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["engine.json", "model.engine", "rescore.engine"]
    record = engine.record
    assert (record.gpu, record.compute_capabilities, record.precision) == ("any", ("8.9",), "fp32")
    assert record.sources == {
        name: artifact.manifest.files[name] for name in ("model.onnx", "rescore.onnx", "weights.bin")
    }
    plan = record.plan_of("model.onnx")
    assert plan is not None and plan.buckets == (Bucket(1, 64, 96), Bucket(2, 64, 96))
    assert plan.plugin_layers == 0 and record.parity is None
    one, two = json.loads((folder / "model.engine").read_text())
    assert one["images"] == [[1, 32, 32, 3], [1, 64, 96, 3], [1, 64, 96, 3]]
    assert two["score_threshold"] == [[2], [2], [2]] and "nms_threshold" not in two
    rescored = json.loads((folder / "rescore.engine").read_text())
    assert rescored[0]["boxes"] == [[1, 100, 4]] * 3
    assert "model.onnx: tactics, 1 of 2" in said and "rescore.onnx: parsing" in said
    load_artifact(artifact.path)
