"""A runtime for tests of isolation: ONNX Runtime that fails for marked images and refuses large batches, and
writes down what it executes.

An image's mark is the blue of its first pixel, which leaves its detections as they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.errors import OutOfMemory, RuntimeFailure
from hindsight.runtime import Runtime, open_runtime
from tests.factories import encode, tiles_image
from tests.server_process import ServerProcess, serving

FAILS, ANSWERS_NAN, ANSWERS_INFINITY = 1, 2, 3
_LOG_VARIABLE, _LOG = "ROUGH_RUNTIME_LOG", "executed.log"


def marked(mark: int) -> bytes:
    """The picture of tests/factories.py with this mark, as a PNG."""
    image = tiles_image()
    image[0, 0, 2] = mark
    return encode(image)


def install(folder: Path) -> None:
    """As a package whose metadata lie in `folder`, for processes that have it on their path."""
    metadata = folder / "rough-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: rough\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(f"[hindsight.runtimes]\nrough = {__name__}:open_rough\n")


@contextmanager
def serving_roughly(
    folder: Path, backend: str, models: Sequence[Path], **limits: object
) -> Iterator[ServerProcess]:
    """A server of these models with this runtime."""
    install(folder / "site")
    run = folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "site"))
        patch.setenv(_LOG_VARIABLE, str(run / _LOG))
        words = [word for model in models for word in ("--model", str(model))]
        with serving(run, *words, "--backend", backend, **limits) as server:
            yield server


def executed(server: ServerProcess) -> list[list[int]]:
    """The marks of each batch, warm-up included."""
    log = server.log_path.with_name(_LOG).read_text()
    return [[int(mark) for mark in line.split()] for line in log.splitlines()]


class RoughRuntime:
    """See hindsight.runtime.Runtime. room: more images do not fit."""

    def __init__(self, inner: Runtime, room: int) -> None:
        self._inner, self._room = inner, room

    def detect(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        marks = inputs["images"][:, 0, 0, 2]
        with open(os.environ[_LOG_VARIABLE], "a") as log:
            log.write(" ".join(map(str, marks)) + "\n")
        if len(marks) > self._room:
            raise OutOfMemory(f"{len(marks)} images do not fit")
        if (marks == FAILS).any():
            raise RuntimeFailure("an image that nobody can take")
        outputs = self._inner.detect(inputs)
        outputs["scores"][marks == ANSWERS_NAN] = np.nan
        outputs["boxes"][marks == ANSWERS_INFINITY] = np.inf
        return outputs

    def rescore(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = self._inner.rescore(inputs)
        outputs["ious"][inputs["images"][:, 0, 0, 2] == ANSWERS_NAN] = np.nan
        return outputs

    def close(self) -> None:
        self._inner.close()


def open_rough(artifact: Artifact, *, device: str, threads: int | None, argument: str) -> Runtime:
    """`rough` or `rough:ROOM`"""
    inner = open_runtime("onnxruntime", artifact, device=device, threads=1)
    return RoughRuntime(inner, int(argument or 1000))
