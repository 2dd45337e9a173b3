"""The annotated video that a job makes of one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hindsight.detections import Detections
from hindsight.draw import annotate
from hindsight.jobs.entries import Entry, Problem
from hindsight.jobs.marks import mark_of, may_write
from hindsight.manifest import ClassInfo
from hindsight.video import VideoError
from hindsight.video_writer import VideoWriter

__all__ = ["Film"]


class Film:
    """The annotated video of one source; what goes wrong with it costs no detections."""

    def __init__(
        self, file: str, target: Path, classes: tuple[ClassInfo, ...], say: Callable[[str], None]
    ) -> None:
        self._file = file
        self._classes = classes
        self._names = tuple(info.name for info in classes)
        self._writer = VideoWriter(target, comment=mark_of(file))
        self._problem: Problem | None = None
        if not self._writer.is_h264:
            say(f"{target}: this PyAV has no H.264 encoder, so the video is {self._writer.codec}")

    def add(self, entry: Entry, pixels: NDArray[np.uint8]) -> None:
        """Its boxes on it; a frame that failed stays as it is."""
        if self._problem is not None or entry.timestamp is None:
            return
        if entry.detections is not None and entry.size is not None:
            width, height = entry.size
            found = Detections.from_records(entry.detections, self._names, (height, width))
            pixels = np.asarray(annotate(pixels, found, self._classes))
        try:
            self._writer.write(pixels, entry.timestamp)
        except VideoError as error:
            self._problem = Problem(error.code, str(error))

    def end(self) -> Problem | None:
        """Finish the file; -> what went wrong."""
        if self._problem is None:
            try:
                if not may_write(self._writer.path, self._file):
                    raise VideoError(f"{self._writer.path} was put there meanwhile and is left as it is")
                self._writer.close()
            except VideoError as error:
                self._writer.discard()
                self._problem = Problem(error.code, str(error))
        return self._problem

    def discard(self) -> None:
        """The job ends before the video does."""
        self._writer.discard()
