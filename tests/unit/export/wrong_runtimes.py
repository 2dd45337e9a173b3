"""Runtimes that are wrong in one way each: parity has to see it. Behind the entry points they are ordinary
runtimes, ONNX Runtime with its answers changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import hindsight.runtime
from hindsight.artifact import Artifact
from hindsight.errors import RuntimeFailure
from hindsight.runtime import Runtime

Outputs = dict[str, NDArray[Any]]


class Changed:
    """A runtime whose answers pass through `change`; `precision`: what it claims to compute in."""

    def __init__(self, inner: Runtime, change: Callable[[Outputs], Outputs], precision: str) -> None:
        self.inner, self.change, self.precision = inner, change, precision
        self.closed = False

    def detect(self, inputs: Mapping[str, NDArray[Any]]) -> Outputs:
        return self.change(self.inner.detect(inputs))

    def rescore(self, inputs: Mapping[str, NDArray[Any]]) -> Outputs:
        return self.change(self.inner.rescore(inputs))

    def close(self) -> None:
        self.inner.close()
        self.closed = True


def moved(outputs: Outputs, by: float) -> Outputs:
    if "boxes" in outputs:
        outputs = outputs | {"boxes": outputs["boxes"] + np.float32(by)}
    return outputs


def rescored(outputs: Outputs, by: float) -> Outputs:
    return outputs | {"purities": outputs["purities"] + np.float32(by)}


def one_missing(outputs: Outputs) -> Outputs:
    if "num_detections" not in outputs:
        return outputs
    return outputs | {"num_detections": np.maximum(outputs["num_detections"] - 1, 0)}


def judge_wrong(outputs: Outputs) -> Outputs:
    """Right about everything it detects, wrong only where it is asked for a second opinion."""
    return outputs if "boxes" in outputs else rescored(outputs, 0.2)


def blind(outputs: Outputs) -> Outputs:
    return {name: np.zeros_like(values) for name, values in outputs.items()}


def headless(outputs: Outputs) -> Outputs:
    return {name: values for name, values in outputs.items() if name != "ious"}


CHANGES: dict[str, tuple[Callable[[Outputs], Outputs], str]] = {
    "moved": (lambda outputs: moved(outputs, 0.2), "fp32"),
    "moved-half": (lambda outputs: moved(outputs, 0.2), "fp16"),
    "far-half": (lambda outputs: moved(outputs, 3.0), "fp16"),
    "purity": (lambda outputs: rescored(outputs, 0.05), "fp32"),
    "judge": (judge_wrong, "fp32"),
    "missing": (one_missing, "fp32"),
    "blind": (blind, "fp32"),
    "headless": (headless, "fp32"),
    "same": (dict, "fp32"),
}
opened: list[Changed] = []


def open_changed(artifact: Artifact, *, device: str, threads: int | None, argument: str) -> Runtime:
    """`changed:NAME`, a name of CHANGES."""
    change, precision = CHANGES[argument]
    inner = hindsight.runtime.open_runtime("onnxruntime", artifact, device="cpu", threads=1)
    opened.append(Changed(inner, change, precision))
    return opened[-1]


def open_broken(artifact: Artifact, *, device: str, threads: int | None, argument: str) -> Runtime:
    raise RuntimeFailure("the device is on fire")


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installed package would."""
    own = [
        EntryPoint(name, f"{__name__}:open_{name}", "hindsight.runtimes") for name in ("changed", "broken")
    ]

    def entry_points(*, group: str, name: str | None = None) -> list[EntryPoint]:
        return [entry for entry in own if entry.group == group and name in (None, entry.name)]

    opened.clear()
    monkeypatch.setattr(hindsight.runtime, "entry_points", entry_points)
