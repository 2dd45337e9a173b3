"""A runtime for tests of loading: its worker is up in a moment, and it misbehaves as its model asks.

Every image has one box, whose IoU is the integrity in the model's weights.bin. An image that was not
letterboxed by the model's own rule is refused, so a mixture of two versions shows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.errors import RuntimeFailure
from hindsight.runtime import Runtime

_ENTRY = f"[hindsight.runtimes]\npretend = {__name__}:open_pretended\n"


def install(folder: Path) -> str:
    """As a package whose metadata lie in `folder`; -> the PYTHONPATH with which processes have it."""
    metadata = folder / "pretend-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pretend\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(_ENTRY)
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


class PretendedRuntime:
    """See hindsight.runtime.Runtime."""

    def __init__(self, artifact: Artifact, milliseconds: float) -> None:
        self._artifact, self._milliseconds = artifact, milliseconds
        self._trouble = artifact.manifest.training_data.get("trouble")
        [self._iou] = np.fromfile(artifact.path / "weights.bin", np.float32)
        _misbehave(self._trouble, "load")

    def detect(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        _misbehave(self._trouble, "warm-up")
        manifest = self._artifact.manifest
        if (inputs["image_sizes"][:, 0] != manifest.resize.short_side).any():
            raise RuntimeFailure(f"an image for another model reached {manifest.name} {manifest.version}")
        time.sleep(self._milliseconds / 1000)
        batch, rows = len(inputs["images"]), manifest.max_detections
        first = np.zeros((batch, rows), np.float32)
        first[:, 0] = 1
        boxes = np.zeros((batch, rows, 4), np.float32)
        boxes[:, 0] = [0, 0, 32, 32]
        return {
            "num_detections": np.ones(batch, np.int64),
            "boxes": boxes,
            "labels": np.zeros((batch, rows), np.int64),
            **{name: first for name in ("scores", "class_scores", "purities")},
            **{name: first * self._iou for name in ("ious", "integrities")},
        }

    def rescore(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        shape = inputs["boxes"].shape[:2]
        return {
            **{name: np.full(shape, self._iou, np.float32) for name in ("ious", "purities", "integrities")},
            "class_scores": np.zeros((*shape, len(self._artifact.manifest.classes)), np.float32),
        }

    def close(self) -> None:
        pass


def _misbehave(trouble: str | None, when: str) -> None:
    if trouble == f"hang on {when}":
        time.sleep(600)
    if trouble == f"crash on {when}":
        os._exit(7)
    if trouble == f"refuse on {when}":
        raise RuntimeFailure("this graph has no meaning")
    if trouble == f"work on {when}":  # for a few seconds, silent but not idle
        end = time.monotonic() + 6
        while time.monotonic() < end:
            sum(range(100_000))


def open_pretended(artifact: Artifact, *, device: str, threads: int | None, argument: str) -> Runtime:
    """`pretend:MS`"""
    return PretendedRuntime(artifact, float(argument))
