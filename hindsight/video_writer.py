"""Frames with boxes as a video again. Needs the extra `video`, as hindsight/video.py does."""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hindsight.video import VideoError, reason_of, require_video
from hindsight.whole_files import draft_of

__all__ = ["VideoWriter"]

_H264 = ("libx264", "libopenh264")  # by preference; which of them there is, is the build's choice
_OTHER = "mpeg4"
_TICKS = 60_000  # a second, as timestamps are written: whole for 24, 25, 30, 50, 60 and 29.97 frames a second


class VideoWriter:
    """A video of frames with their timestamps, to `path`: .mp4, .mov or .mkv. Whole or not at all.

    H.264 where this build of FFmpeg can, MPEG-4 otherwise: `codec` says which. The first frame decides the
    size; sides are made even by leaving out a last row or column. comment: is kept in the file. Raises
    VideoError.
    """

    def __init__(self, path: Path, *, comment: str = "") -> None:
        require_video()
        self.path = path
        self._comment = comment
        self.codec = next((name for name in _H264 if _can_encode(name)), _OTHER)
        self._draft = draft_of(path)
        self._container: Any = None
        self._stream: Any = None
        self._first = 0.0
        self._last_tick = -1

    @property
    def is_h264(self) -> bool:
        """What players everywhere play."""
        return self.codec in _H264

    def write(self, image: NDArray[np.uint8], timestamp: float) -> None:
        """Append `image` uint8 [H, W, 3]; timestamps must grow."""
        import av

        try:
            if self._stream is None:
                self._begin(image, timestamp)
            width, height = self._stream.width, self._stream.height
            if image.shape[0] // 2 * 2 != height or image.shape[1] // 2 * 2 != width:
                image = np.asarray(Image.fromarray(image).resize((width, height)))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image[:height, :width]), format="rgb24")
            self._last_tick = max(self._last_tick + 1, round((timestamp - self._first) * _TICKS))
            frame.pts, frame.time_base = self._last_tick, Fraction(1, _TICKS)
            self._container.mux(self._stream.encode(frame))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._cannot_write(error) from error

    def close(self) -> None:
        """Finish the file. Without a frame there is none."""
        import av

        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            os.replace(self._draft, self.path)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._cannot_write(error) from error
        finally:
            self._container = None

    def discard(self) -> None:
        """Leave nothing behind."""
        if self._container is not None:
            with contextlib.suppress(Exception):  # what it thinks of its end does not matter any more
                self._container.close()
            self._container = None
        with contextlib.suppress(OSError):
            self._draft.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _begin(self, image: NDArray[np.uint8], timestamp: float) -> None:
        import av

        height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
        if not height or not width:
            raise ValueError(
                f"frames of {image.shape[1]} x {image.shape[0]} pixels are too small for a video"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._container = av.open(str(self._draft), "w")
        if self._comment:
            self._container.metadata["comment"] = self._comment
        options = {"preset": "veryfast", "crf": "20"} if self.codec == "libx264" else {}
        stream = self._container.add_stream(self.codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, _TICKS)
        if self.codec != "libx264":
            stream.bit_rate = max(1_000_000, width * height * 4)
        self._stream, self._first = stream, timestamp

    def _cannot_write(self, error: Exception) -> VideoError:
        self.discard()
        return VideoError(f"cannot write the video {self.path} ({reason_of(error)})")


def _can_encode(name: str) -> bool:
    import av

    try:
        av.codec.Codec(name, "w")
    except Exception:  # PyAV has had several kinds of it
        return False
    return True
