"""A runtime that stands in for TensorRT: it picks its engine by the same rules, and runs ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.engines import (
    ENGINE_FORMAT,
    Bucket,
    Engine,
    EngineRecord,
    Plan,
    engine_folder_name,
    engines_folder,
    find_engine,
    write_record,
)
from hindsight.runtime import Runtime, open_runtime

HERE = ("tensorrt", "10.13.3.9", "NVIDIA H100 80GB HBM3")
ENTRY = f"[hindsight.runtimes]\nengine-here = {__name__}:open_engine_here\n"


def install(folder: Path) -> None:
    """As a package whose metadata lie in `folder`, for processes that have it on their path."""
    metadata = folder / "engine_here-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: engine-here\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY)


def write_engine(artifact: Artifact) -> Path:
    """An engine's folder, with a record and a plan that nobody executes."""
    flavour, version, gpu = HERE
    folder = engines_folder(artifact) / engine_folder_name(gpu, flavour, version, "fp16")
    folder.mkdir(parents=True)
    (folder / "model.engine").write_bytes(b"a plan")
    digest = hashlib.sha256(b"a plan").hexdigest()
    plan = Plan("model.onnx", "model.engine", digest, plugin_layers=4, buckets=(Bucket(1, 96, 160),))
    sources = {name: artifact.manifest.files[name] for name in ("model.onnx", "weights.bin")}
    record = EngineRecord(ENGINE_FORMAT, flavour, version, gpu, ("9.0",), "fp16", False, sources, (plan,))
    write_record(folder, record)
    return folder


class EngineRuntime:
    """See hindsight.runtime.Runtime; `moved`: its boxes lie 3 pixels off."""

    def __init__(self, engine: Engine, inner: Runtime, *, moved: bool) -> None:
        self.engine, self._inner, self._moved = engine, inner, moved

    def detect(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = self._inner.detect(inputs)
        return outputs | {"boxes": outputs["boxes"] + np.float32(3)} if self._moved else outputs

    def rescore(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return self._inner.rescore(inputs)

    def close(self) -> None:
        self._inner.close()


def open_engine_here(artifact: Artifact, *, device: str, threads: int | None, argument: str) -> Runtime:
    """`engine-here[:unchecked][:moved]`"""
    words = argument.split(":")
    flavour, version, gpu = HERE
    engine = find_engine(artifact, flavour, version, gpu, allow_failed_parity="unchecked" in words)
    return EngineRuntime(engine, open_runtime("onnxruntime", artifact, threads=1), moved="moved" in words)
