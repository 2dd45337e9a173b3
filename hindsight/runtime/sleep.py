"""A runtime that only waits, to load-test everything around a model: `sleep:MS` answers every batch after MS
milliseconds, with nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.artifact import Artifact
from hindsight.errors import OptionError

__all__ = ["SleepRuntime"]


class SleepRuntime:
    """See hindsight.runtime.Runtime. Detects nothing; rescores everything as 0."""

    def __init__(self, artifact: Artifact, milliseconds: str) -> None:
        try:
            self._seconds = float(milliseconds) / 1000
        except ValueError:
            self._seconds = math.nan
        if not (math.isfinite(self._seconds) and self._seconds >= 0):
            raise OptionError(f"runtime sleep needs milliseconds, as in sleep:50; got {milliseconds!r}")
        self._artifact, self._manifest = artifact, artifact.manifest

    def detect(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Wait, then answer no detections for each image."""
        time.sleep(self._seconds)
        batch, capacity = len(inputs["images"]), self._manifest.max_detections
        names = ["scores", "class_scores"]
        if self._manifest.has_localization:
            names += ["ious", "purities", "integrities"]
        return {
            "num_detections": np.zeros(batch, np.int64),
            "boxes": np.zeros((batch, capacity, 4), np.float32),
            "labels": np.zeros((batch, capacity), np.int64),
            **{name: np.zeros((batch, capacity), np.float32) for name in names},
        }

    def rescore(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Wait, then answer 0 for each box."""
        self._artifact.require_rescoring()
        time.sleep(self._seconds)
        shape = inputs["boxes"].shape[:2]
        return {
            **{name: np.zeros(shape, np.float32) for name in ("ious", "purities", "integrities")},
            "class_scores": np.zeros((*shape, len(self._manifest.classes)), np.float32),
        }

    def close(self) -> None:
        """Nothing is held."""
