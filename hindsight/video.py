"""Videos: their frames as images, in time. Needs the extra `video` (PyAV, which brings FFmpeg along).

>>> for frame in hindsight.video.read_frames("clip.mp4", Sampling(fps=2)):
...     detector.detect(frame.image)

A frame is as a player shows it: in the order of presentation, upright by the file's rotation, RGB. Its number
counts all frames of the video from 0. Its timestamp, in seconds from the file's start, is the file's, so that
frames of a variable rate have their own.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.decode import DEFAULT_LIMITS, ImageLimits
from hindsight.errors import HindsightError
from hindsight.extras import install_extra
from hindsight.sampling import Sampling, parse_time

__all__ = [
    "Frame",
    "IncompleteVideo",
    "Sampling",
    "VideoError",
    "expected_frames",
    "parse_time",
    "read_ahead",
    "read_frames",
    "require_video",
]

_ATTACHED_PIC = 0x400  # AV_DISPOSITION_ATTACHED_PIC
_AHEAD = 4  # frames decoded while the model is busy
_MISSING_SECONDS = (
    1.0  # a stream that ends so much before its declared end was cut, where no frames are counted
)
_DURATION = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")  # Matroska's tag of a stream


class VideoError(HindsightError):
    """The video cannot be read or written."""

    code = "video-error"


class IncompleteVideo(VideoError):
    """Raised behind the last frame that could be decoded: there should have been more, or some are broken."""

    code = "incomplete-video"


@dataclass(frozen=True)
class Frame:
    """image: uint8 [H, W, 3] RGB, upright. timestamp: seconds from the file's start."""

    number: int
    timestamp: float
    image: NDArray[np.uint8]


def require_video() -> None:
    """Raises VideoError, with what to install, where the extra is missing."""
    try:
        import av as _  # noqa: F401
    except ImportError as error:
        raise VideoError(f"videos need PyAV ({error}): {install_extra('video')}") from error


def read_frames(
    path: str | os.PathLike[str], sampling: Sampling | None = None, *, limits: ImageLimits = DEFAULT_LIMITS
) -> Iterator[Frame]:
    """The wanted frames, in order.

    Raises VideoError where it cannot be read; IncompleteVideo behind the last frame of one that is cut short
    or partly broken.
    """
    require_video()
    import av

    wanted = sampling or Sampling()
    try:
        with _opened(path) as container:
            yield from _Reading(container, wanted, limits, Path(path)).frames()
    except av.error.InvalidDataError as error:
        raise VideoError(
            f"{path}: this is no video, or its beginning is broken ({reason_of(error)})"
        ) from error
    except (av.error.FFmpegError, OSError) as error:
        raise VideoError(f"{path}: cannot be read ({reason_of(error)})") from error


@contextlib.contextmanager
def read_ahead(
    path: str | os.PathLike[str], sampling: Sampling | None = None, *, ahead: int = _AHEAD
) -> Iterator[Iterator[Frame]]:
    """`read_frames` in a thread of its own, at most `ahead` frames before whoever takes them."""
    frames: queue.Queue[Frame | BaseException | None] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def hand(item: Frame | BaseException | None) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                frames.put(item, timeout=0.1)
                return True
        return False

    def decode() -> None:
        try:
            for frame in read_frames(path, sampling):
                if not hand(frame):
                    return
            hand(None)
        except BaseException as error:  # it is raised where the frames are taken
            hand(error)

    def take() -> Iterator[Frame]:
        while (item := frames.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=decode, daemon=True, name=f"decode {Path(path).name}")
    thread.start()
    try:
        yield take()
    finally:
        stopped.set()
        thread.join()


def expected_frames(path: str | os.PathLike[str], sampling: Sampling) -> int | None:
    """How many frames there will be, by what the file says of itself; None where it says nothing."""
    import av

    try:
        with _opened(path) as container:
            stream = _video_stream(container, str(path))
            rate = float(stream.average_rate or 0)
            seconds = _declared_seconds(container, stream)
    except (av.error.FFmpegError, OSError, VideoError):
        return None
    if seconds is None or (rate <= 0 and sampling.fps is None):
        return None
    span = min(seconds, sampling.end if sampling.end is not None else seconds) - sampling.start
    if sampling.fps is not None:
        rate = min(sampling.fps, rate) if rate > 0 else sampling.fps
    return max(0, math.ceil(span * rate / sampling.stride))


class _Reading:
    """One video, decoded from its beginning: only that gives every frame its number."""

    def __init__(self, container: Any, sampling: Sampling, limits: ImageLimits, path: Path) -> None:
        self._container = container
        self._name = name = str(path)
        self._stream = _video_stream(container, name)
        self._sampling = sampling
        self._path = path
        self._start = (container.start_time or 0) / 1_000_000
        rate = float(self._stream.average_rate or 0)
        self._frame_seconds = 1 / rate if rate > 0 else 0.0
        self._number = 0
        self._broken = 0
        self._whole = 0  # packets that the file holds to their last byte
        self._end = 0.0  # of the last of them to be shown
        context = self._stream.codec_context
        if context.width * context.height > limits.max_pixels:
            raise VideoError(
                f"{name}: frames of {context.width} x {context.height} pixels; "
                f"at most {limits.max_pixels} in all are accepted"
            )

    def frames(self) -> Iterator[Frame]:
        picker = self._sampling.picker()
        for frame in self._decoded():
            timestamp = self._timestamp(frame)
            if picker.is_past(timestamp):
                return
            number, self._number = self._number, self._number + 1
            if picker.takes(timestamp):
                yield Frame(number, round(timestamp, 6), _upright(frame))
        self._check_end()

    def _decoded(self) -> Iterator[Any]:
        import av

        self._stream.thread_type = "AUTO"
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:  # the container ends in its middle
                self._broken += 1
                packet = None
            if packet is None:
                return
            self._note(packet)
            try:
                decoded = packet.decode()
            except av.error.InvalidDataError:
                self._broken += 1
                continue
            yield from decoded

    def _timestamp(self, frame: Any) -> float:
        if frame.time is not None:
            return max(0.0, float(frame.time) - self._start)
        rate = self._stream.average_rate or self._stream.base_rate
        if not rate:
            raise VideoError(f"{self._name}: neither its frames nor the file say when they are shown")
        return self._number / float(rate)

    def _note(self, packet: Any) -> None:
        """How far the file goes, whatever its decoder makes of it."""
        if not packet.size or packet.is_corrupt:  # the end of all; what the end of the file cuts
            return
        self._whole += 1
        shown = packet.pts if packet.pts is not None else packet.dts
        if shown is not None and packet.time_base is not None:
            seconds = float(packet.duration * packet.time_base) if packet.duration else self._frame_seconds
            self._end = max(self._end, float(shown * packet.time_base) - self._start + seconds)

    def _check_end(self) -> None:
        if self._number == 0:
            raise VideoError(f"{self._name}: no frame of this video can be decoded")
        told = []
        if (missing := self._missing()) is not None:
            told.append(missing)
        if self._broken:
            told.append(f"{self._broken} part{'s' if self._broken > 1 else ''} of it could not be decoded")
        if told:
            raise IncompleteVideo(f"{self._name}: {'; '.join(told)}")

    def _missing(self) -> str | None:
        """What the file says that it has, and has not. Fewer frames alone are no sign: an edit may hide some,
        and recorders leave out what did not change; but what there is then lasts as long as it should.
        """
        counted = self._stream.frames
        declared = _declared_seconds(self._container, self._stream)
        if declared is None or 0 < counted <= self._whole:
            return None
        least, frames = _MISSING_SECONDS, ""
        if counted and self._frame_seconds:
            least, frames = self._frame_seconds / 2, f" ({self._whole} of {counted} frames)"
        if self._container.format.name == "avi":  # which counts frames that were left out at its end, too
            if not _is_short_of_bytes(self._path):
                return None
            frames = ""
        if declared - self._end <= least:
            return None
        return f"it ends at {self._end:.1f} s of {declared:.1f} s{frames}: the file is cut short"


def _opened(path: str | os.PathLike[str]) -> Any:
    import av

    # An absolute path is no URL, and a playlist in the file opens nothing but files. As `options` this would
    # be read for each stream too, and PyAV 14 to 16 crash where one shows up late (MPEG program streams).
    options = {"protocol_whitelist": "file"}
    return av.open(str(Path(path).absolute()), metadata_errors="replace", container_options=options)


def _video_stream(container: Any, name: str) -> Any:
    """The first one; a music file's cover is none."""
    for stream in container.streams.video:
        if not _is_cover(stream):
            return stream
    raise VideoError(f"{name}: there is no video in this file")


def _is_cover(stream: Any) -> bool:
    disposition = getattr(stream, "disposition", 0)  # a number, or a flag, by PyAV's version
    return bool(getattr(disposition, "value", disposition) & _ATTACHED_PIC)


def _declared_seconds(container: Any, stream: Any) -> float | None:
    """How long the video is, as far as its stream, or a file without other streams, says so."""
    if container.format.name == "avi" and stream.frames and stream.average_rate:
        return float(
            stream.frames / stream.average_rate
        )  # the duration is a guess where the index was cut off
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    if (tag := _DURATION.match(stream.metadata.get("DURATION", ""))) is not None:
        hours, minutes, seconds = tag.groups()
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    if container.duration is not None and len(container.streams) == 1:
        return float(container.duration) / 1_000_000
    return None


def _is_short_of_bytes(path: Path) -> bool:
    """Whether an AVI file, a row of RIFF chunks, ends within the last of them."""
    with path.open("rb") as stream:
        size, place = os.fstat(stream.fileno()).st_size, 0
        while place + 8 <= size:
            stream.seek(place)
            head = stream.read(8)
            if not head.startswith(b"RIFF"):
                return False
            place += 8 + int.from_bytes(head[4:], "little")
    return place > size + 1  # a byte of padding


def _upright(frame: Any) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # degrees, counterclockwise
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def reason_of(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:120]
