"""Which frames of a video are looked at. Needs nothing but arithmetic."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from hindsight.errors import OptionError

__all__ = ["Sampling", "parse_time"]

_TIME = re.compile(r"[0-9]{1,9}(:[0-5]?[0-9]){0,2}(\.[0-9]*)?|\.[0-9]+")


@dataclass(frozen=True)
class Sampling:
    """Which frames: from `start` seconds until before `end`, of those every `stride`-th, or `fps` a second.

    With fps the first frame at or behind each point in time is taken, each frame at most once. Raises
    OptionError for values that make no sense.
    """

    stride: int = 1
    fps: float | None = None
    start: float = 0.0
    end: float | None = None

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise OptionError(f"stride must be at least 1, got {self.stride}")
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise OptionError(f"fps must be above 0, got {self.fps}")
        if self.fps is not None and self.stride != 1:
            raise OptionError("give stride or fps, not both")
        if self.end is not None and self.end <= self.start:
            raise OptionError(f"end must be behind start, got {self.start:g} s to {self.end:g} s")

    def picker(self) -> _Picker:
        """Asked about each frame in turn."""
        return _Picker(self)


class _Picker:
    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._inside = 0
        self._due = 0  # fps: how many points in time lie behind us

    def takes(self, timestamp: float) -> bool:
        """Whether this frame is wanted."""
        sampling = self._sampling
        # Timestamps are whole ticks of the file; a frame of second 2 may be told as 1.9999999.
        after = timestamp - sampling.start + 1e-6
        if after < 0:
            return False
        self._inside += 1
        if sampling.fps is None:
            return (self._inside - 1) % sampling.stride == 0
        if after * sampling.fps < self._due:
            return False
        self._due = math.floor(after * sampling.fps) + 1
        return True

    def is_past(self, timestamp: float) -> bool:
        """Whether this frame, and so all that follow, come too late."""
        return self._sampling.end is not None and timestamp + 1e-6 >= self._sampling.end


def parse_time(text: str) -> float:
    """Seconds from "12.5", "1:02.5" or "1:00:02". Raises OptionError."""
    if _TIME.fullmatch(text):
        seconds = 0.0
        for part in text.split(":"):
            seconds = 60 * seconds + float(part)
        return seconds
    raise OptionError(
        f"a time is written as seconds or as [HH:]MM:SS, with less than 60 behind a colon, got {text!r}"
    )
