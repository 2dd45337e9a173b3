"""What the model has said of a mosaic's windows, on disk: rules can be changed without asking it again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.tiling_mosaics import Mosaic
from benchmarks.tiling_second import second_opinions
from hindsight.api import Detector
from hindsight.detections import Detections
from hindsight.tiling import crop

__all__ = ["NMS_THRESHOLD", "Passes"]

NMS_THRESHOLD = 0.5
_EVERYTHING = {"class_threshold": 0.05, "score_threshold": 0.0, "nms_threshold": NMS_THRESHOLD}
_COLUMNS = ("boxes", "labels", "scores", "class_scores", "ious", "purities", "integrities")


class Passes:
    """What the model says of each window of one mosaic, asked once and kept in a file."""

    def __init__(self, detector: Detector, mosaic: Mosaic, file: Path) -> None:
        self.least_score = detector.artifact.manifest.defaults.score_threshold
        self._detector, self._mosaic, self._file = detector, mosaic, file
        self._known: dict[str, NDArray[Any]] = {}
        if file.exists():
            with np.load(file, allow_pickle=False) as stored:
                self._known = {name: stored[name] for name in stored.files}

    def fill(self, windows: NDArray[np.int64]) -> None:
        """Ask for those that are not there yet."""
        missing = [window for window in windows if f"{_key(window)}/seconds" not in self._known]
        for window in missing:
            pixels = crop(self._mosaic.pixels, window)
            start = time.perf_counter()
            found = self._detector.detect(pixels, **_EVERYTHING)
            self._known[f"{_key(window)}/seconds"] = np.array(time.perf_counter() - start)
            for name in _COLUMNS:
                self._known[f"{_key(window)}/{name}"] = getattr(found, name)
        if missing:
            self._save()

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("wb") as stream:
            np.savez(stream, **self._known)  # type: ignore[arg-type]

    def found(self, window: NDArray[np.int64], least_score: float = 0.0) -> Detections:
        """What the window's pass has found, of at least this score."""
        return self._stored(_key(window), window, least_score)

    def _stored(self, key: str, window: NDArray[np.int64], least_score: float) -> Detections:
        columns = [self._known[f"{key}/{name}"] for name in _COLUMNS]
        size = (int(window[3] - window[1]), int(window[2] - window[0]))
        every = Detections(*columns, self._detector.classes, size)
        return every.select(every.scores >= least_score)

    def fill_second(self, windows: NDArray[np.int64]) -> None:
        """Ask, once, for the second opinions of tiles on each other's cut boxes."""
        if f"{_key(windows[0])}/second/scores" in self._known:
            return
        start = time.perf_counter()
        changed = second_opinions(
            self._detector, self._mosaic, windows, [self.found(window) for window in windows]
        )
        self._known["second/seconds"] = np.array(time.perf_counter() - start)
        for window, each in zip(windows, changed, strict=True):
            for name in _COLUMNS:
                self._known[f"{_key(window)}/second/{name}"] = getattr(each, name)
        self._save()

    def second(self, window: NDArray[np.int64], least_score: float = 0.0) -> Detections:
        """`found`, but with the second opinions."""
        return self._stored(f"{_key(window)}/second", window, least_score)

    @property
    def second_seconds(self) -> float:
        return float(self._known["second/seconds"])

    def seconds(self, windows: NDArray[np.int64]) -> float:
        return sum(float(self._known[f"{_key(window)}/seconds"]) for window in windows)


def _key(window: NDArray[np.int64]) -> str:
    return "-".join(str(value) for value in window.tolist())
