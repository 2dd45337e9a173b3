"""Which engines of an artifact may be loaded, and what the others are told."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest

from hindsight.artifact import Artifact, load_artifact
from hindsight.engines import (
    ANY_GPU,
    ENGINE_FORMAT,
    Bucket,
    EngineParity,
    EngineRecord,
    Plan,
    engine_folder_name,
    engines_folder,
    find_engine,
    read_engine,
    record_parity,
    write_record,
)
from hindsight.errors import ArtifactError, OptionError, RuntimeFailure
from tests.factories import make_tiny_artifact

GPU = "NVIDIA H100 80GB HBM3"
HERE = ("tensorrt", "10.13.3.9", GPU)
PASSED = EngineParity(True, 0.2, 0.01, 0.004, 900, 0, "2026-11-21T12:00:00+00:00")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "tiny")


def add_engine(
    artifact: Artifact,
    precision: str = "fp16",
    *,
    flavour: str = "tensorrt",
    version: str = "10.13.3.9",
    gpu: str = GPU,
    parity: EngineParity | None = PASSED,
) -> Path:
    folder = engines_folder(artifact) / engine_folder_name(gpu, flavour, version, precision)
    folder.mkdir(parents=True)
    (folder / "model.engine").write_bytes(b"a plan")
    plan = Plan(
        graph="model.onnx",
        file="model.engine",
        sha256=hashlib.sha256(b"a plan").hexdigest(),
        plugin_layers=4,
        buckets=(Bucket(1, 64, 96), Bucket(8, 64, 96), Bucket(1, 96, 64), Bucket(8, 96, 64)),
    )
    sources = {name: artifact.manifest.files[name] for name in ("model.onnx", "weights.bin")}
    record = EngineRecord(
        ENGINE_FORMAT, flavour, version, gpu, ("9.0",), precision, False, sources, (plan,), parity
    )
    write_record(folder, record)
    return folder


def test_the_engine_of_this_gpu_and_version_is_found_and_read_back_equal(artifact: Artifact) -> None:
    folder = add_engine(artifact)
    found = find_engine(artifact, *HERE)
    assert found.folder == folder and folder.name == "nvidia-h100-80gb-hbm3-tensorrt10.13.3.9-fp16"
    plan = found.record.plan_of("model.onnx")
    assert plan is not None and plan.buckets[1] == Bucket(8, 64, 96) and found.record.parity == PASSED
    assert found.record.plan_of("rescore.onnx") is None
    load_artifact(artifact.path)  # engines are no part of what the manifest lists


def test_the_fastest_precision_is_taken_unless_one_is_asked_for(artifact: Artifact) -> None:
    for precision in ("fp32", "bf16", "fp16"):
        add_engine(artifact, precision)
    assert find_engine(artifact, *HERE).record.precision == "fp16"
    assert find_engine(artifact, *HERE, "fp32").record.precision == "fp32"
    with pytest.raises(OptionError, match="fp16, bf16, fp32, got 'int8'"):
        find_engine(artifact, *HERE, "int8")


def test_without_an_engine_the_command_that_builds_one_is_named(artifact: Artifact) -> None:
    command = f"hindsight export {artifact.path} --to tensorrt --precision bf16"
    with pytest.raises(RuntimeFailure, match=f"there is no engine; build it here: {command}$"):
        find_engine(artifact, *HERE, "bf16")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gpu": "NVIDIA A100"}, "for another GPU, NVIDIA A100"),
        ({"version": "10.12.0"}, "for tensorrt 10.12.0"),
        ({"flavour": "tensorrt_rtx"}, "for tensorrt_rtx 10.13.3.9"),
    ],
)
def test_an_engine_of_another_gpu_or_version_is_refused(
    artifact: Artifact, changes: dict[str, str], reason: str
) -> None:
    add_engine(artifact, **changes)  # type: ignore[arg-type]
    with pytest.raises(RuntimeFailure) as refused:
        find_engine(artifact, *HERE)
    text = str(refused.value)
    assert f"({reason})" in text and "for NVIDIA H100 80GB HBM3, tensorrt 10.13.3.9" in text
    assert text.endswith("--to tensorrt --precision fp16 --batch 1,8 --size 64x96,96x64")


@pytest.mark.parametrize("sources", [{"model.onnx": "0" * 64}, {}])
def test_an_engine_of_older_graphs_is_refused(artifact: Artifact, sources: dict[str, str]) -> None:
    folder = add_engine(artifact)
    engine = read_engine(folder)
    write_record(folder, replace(engine.record, sources=sources))
    with pytest.raises(RuntimeFailure, match="from older graphs of this model"):
        find_engine(artifact, *HERE)


def test_a_changed_plan_is_refused(artifact: Artifact) -> None:
    (add_engine(artifact) / "model.engine").write_bytes(b"another plan")
    with pytest.raises(RuntimeFailure, match=r"is not the file engine\.json listed"):
        find_engine(artifact, *HERE)


def test_an_engine_for_any_gpu_fits_every_gpu(artifact: Artifact) -> None:
    add_engine(artifact, flavour="tensorrt_rtx", version="1.7.1", gpu=ANY_GPU)
    assert find_engine(artifact, "tensorrt_rtx", "1.7.1", "NVIDIA RTX 4000").record.gpu == ANY_GPU
    with pytest.raises(RuntimeFailure, match=r"for tensorrt_rtx 1\.7\.1"):
        find_engine(artifact, *HERE)


def test_parity_is_recorded_and_a_failure_refused(
    artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    folder = add_engine(artifact, parity=None)
    with caplog.at_level(logging.WARNING):
        find_engine(artifact, *HERE)
    assert f"run hindsight parity {artifact.path}" in caplog.text

    record_parity(folder, PASSED.__dict__)
    caplog.clear()
    assert find_engine(artifact, *HERE).record.parity == PASSED and not caplog.records

    record_parity(folder, replace(PASSED, passed=False, outliers=31, max_pixels=12.5))
    with pytest.raises(
        RuntimeFailure, match=r"31 of 900 detections differ, by up to 12 px.*--precision fp32"
    ):
        find_engine(artifact, *HERE)
    assert find_engine(artifact, *HERE, allow_failed_parity=True).folder == folder


def test_a_precision_whose_parity_failed_is_passed_over_and_said(
    artifact: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    add_engine(artifact, "fp16", parity=replace(PASSED, passed=False))
    add_engine(artifact, "fp32")
    with caplog.at_level(logging.WARNING):
        assert find_engine(artifact, *HERE).record.precision == "fp32"
    assert "fp16 is passed over" in caplog.text
    with pytest.raises(RuntimeFailure, match="does not answer as the model"):
        find_engine(artifact, *HERE, "fp16")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, "format_version must be 1, got 2"),
        ({"precision": 16}, "EngineRecord.precision must be str, got 16"),
        ({"plans": [{"graph": "model.onnx"}]}, "missing fields"),
        ({"precision": "int8"}, "precision must be one of fp16, bf16, fp32, got 'int8'"),
        ({"extra": 1}, r"unknown fields \['extra'\]"),
        ({"parity": {**PASSED.__dict__, "compared": True}}, "compared must be int, got True"),
    ],
)
def test_a_record_that_is_not_well_formed_is_refused_and_named(
    artifact: Artifact, change: dict[str, object], words: str
) -> None:
    folder = add_engine(artifact)
    document = json.loads((folder / "engine.json").read_text())
    (folder / "engine.json").write_text(json.dumps({**document, **change}))
    with pytest.raises(ArtifactError, match=words):
        read_engine(folder)
    with pytest.raises(RuntimeFailure, match=words):
        find_engine(artifact, *HERE)


@pytest.mark.parametrize("file", ["../../model.onnx", "/etc/hostname", "..", "", ".", "a/b", "a\\b", "a\0b"])
def test_a_plan_lies_in_its_own_folder(artifact: Artifact, file: str) -> None:
    folder = add_engine(artifact)
    document = json.loads((folder / "engine.json").read_text())
    document["plans"][0]["file"] = file
    (folder / "engine.json").write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match=r"plans\[0\]\.file must be the name of a file"):
        read_engine(folder)


def test_a_parity_result_must_be_complete(artifact: Artifact) -> None:
    folder = add_engine(artifact)
    with pytest.raises(OptionError, match="missing fields"):
        record_parity(folder, {"passed": True})
    assert read_engine(folder).record.parity == PASSED


FAILED = replace(PASSED, passed=False)


@pytest.mark.parametrize(
    ("engines", "asked", "advice"),
    [
        ({"fp16": FAILED}, None, "build a more exact one: hindsight export .* --precision fp32 --batch 1,8"),
        (
            {"fp32": FAILED},
            None,
            "fp32 is the most exact there is: serve the model with --backend torch or onn",
        ),
        ({"fp16": FAILED, "fp32": FAILED}, "fp16", "fp32 is the most exact there is"),
        ({"fp16": FAILED, "fp32": PASSED}, "fp16", "there is one in fp32 that passed: tensorrt:fp32"),
        (
            {"fp16": FAILED, "bf16": None},
            "fp16",
            "compare the one in bf16: hindsight parity .*tensorrt:bf16@cuda",
        ),
    ],
)
def test_a_failed_parity_advises_what_can_be_done(
    artifact: Artifact, engines: dict[str, EngineParity | None], asked: str | None, advice: str
) -> None:
    for precision, parity in engines.items():
        add_engine(artifact, precision, parity=parity)
    with pytest.raises(RuntimeFailure, match=advice) as refused:
        find_engine(artifact, *HERE, asked)
    if "fp32" in engines:
        assert "--to tensorrt --precision fp32" not in str(refused.value)
