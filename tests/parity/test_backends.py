"""`hindsight parity` on the shipped model: torch against ONNX Runtime, here and on a GPU; ONNX Runtime on a
GPU; a TensorRT engine.

python -m pytest -m "gpu or tensorrt" tests/parity/test_backends.py
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import typer
from typer.testing import CliRunner

import hindsight.runtime
from export.cli import export
from export.parity_cli import parity
from hindsight.artifact import find_artifact
from hindsight.engines import list_engines

ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]
HAS_CUDA_PROVIDER = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
HAS_TENSORRT = any(importlib.util.find_spec(name) for name in ("tensorrt", "tensorrt_rtx"))


@pytest.fixture(autouse=True)
def torch_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout that is not installed has no entry points."""
    if "torch" not in hindsight.runtime.runtime_names():
        entry = EntryPoint("torch", "export.torch_runtime:open_torch", "hindsight.runtimes")

        def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
            return [entry] if group == entry.group and name in (None, entry.name) else []

        monkeypatch.setattr(hindsight.runtime, "entry_points", entry_points)


def compare(model: Path, candidate: str, out: Path) -> dict[str, Any]:
    """parity.json of ONNX Runtime on the CPU and `candidate`, on the sample photos."""
    app = typer.Typer()
    app.command()(parity)
    words = [model, "--backends", f"onnxruntime@cpu,{candidate}", "--images", model / "samples"]
    words += ["--limit", "2", "--batch", "2", "--out", out / "parity.json"]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    document = json.loads((out / "parity.json").read_text())
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize(
    "candidate",
    [
        "torch@cpu",
        *(
            pytest.param(f"torch:{precision}@cuda", marks=ON_GPU)
            for precision in ("fp32", "tf32", "fp16", "bf16")
        ),
    ],
)
def test_torch_answers_as_onnx_runtime(candidate: str, tmp_path: Path) -> None:
    (found,) = compare(find_artifact("cells").path, candidate, tmp_path)["candidates"]
    assert found["precision"] in candidate or candidate == "torch@cpu"
    assert sum(run["matched"] for run in found["runs"]) > 60 and found["rescored"]["matched"] > 30


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA_PROVIDER, reason="needs an NVIDIA GPU and onnxruntime-gpu")
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_the_cuda_provider_answers_as_the_cpus(precision: str, tmp_path: Path) -> None:
    (found,) = compare(find_artifact("cells").path, f"onnxruntime:{precision}@cuda", tmp_path)["candidates"]
    assert found["precision"] == precision
    assert sum(run["matched"] for run in found["runs"]) > 60 and found["rescored"]["matched"] > 30


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.timeout(1800)  # an engine takes minutes to build
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use")
@pytest.mark.skipif(not HAS_TENSORRT, reason="needs TensorRT: the extra tensorrt")
def test_an_engine_answers_as_onnx_runtime_and_notes_it(tmp_path: Path) -> None:
    model = tmp_path / "cells"
    shutil.copytree(find_artifact("cells").path, model, ignore=shutil.ignore_patterns("engines"))
    app = typer.Typer()
    app.command()(export)
    words = [str(model), "--to", "tensorrt", "--precision", "fp16", "--batch", "1,2"]
    built = CliRunner().invoke(app, words)
    assert built.exit_code == 0, built.output
    (found,) = compare(model, "tensorrt:fp16@cuda", tmp_path)["candidates"]
    assert found["precision"] == "fp16" and found["recorded_in"]
    ((_, engine),) = list_engines(find_artifact(model))
    assert not isinstance(engine, Exception)
    assert engine.record.parity is not None and engine.record.parity.passed
    assert engine.record.parity.compared > 60
