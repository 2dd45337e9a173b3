"""What a job knows of one image, one frame of a video, or a video as a whole."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from hindsight.formats import Record

__all__ = ["Entry", "Key", "Problem", "Stamp", "stamp_of"]

Key = tuple[str, int | None]  # file, frame
Stamp = tuple[int, int]  # bytes, nanoseconds of the last change


@dataclass(frozen=True)
class Problem:
    """Why there are no detections. code: of a class of hindsight.errors. detail: one line."""

    code: str
    detail: str

    def to_json(self) -> dict[str, str]:
        """The two, by name."""
        return {"code": self.code, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Entry:
    """file: as it was named. stamp: the file's as it was before it was read; None where that failed.

    frame: of a video, counted from 0; None for an image, and for a video as a whole. timestamp: seconds from
    the video's start. size: width, height. boxes: how many were found. drawn: where the annotated picture
    lies. detections: the rows; None while they are left on disk, and where there is a problem. is_video: this
    is about a video as a whole, of which `frames` were looked at.
    """

    file: str
    stamp: Stamp | None
    frame: int | None = None
    timestamp: float | None = None
    size: tuple[int, int] | None = None
    boxes: int = 0
    drawn: str | None = None
    is_video: bool = False
    frames: int | None = None
    problem: Problem | None = None
    detections: list[Record] | None = None

    @property
    def key(self) -> Key:
        """What tells it from the others of a job."""
        return self.file, self.frame

    @property
    def name(self) -> str:
        """For people and for COCO's file_name: FILE, or FILE#FRAME."""
        return self.file if self.frame is None else f"{self.file}#{self.frame}"

    def head(self) -> dict[str, Any]:
        """As JSON, without the detections."""
        fields: dict[str, Any] = {"file": self.file, "stamp": self.stamp, "boxes": self.boxes}
        for name in ("frame", "timestamp", "size", "drawn", "frames"):
            if (value := getattr(self, name)) is not None:
                fields[name] = value
        if self.is_video:
            fields["is_video"] = True
        if self.problem is not None:
            fields["problem"] = self.problem.to_json()
        return fields

    @classmethod
    def from_head(cls, head: dict[str, Any], detections: list[Record] | None = None) -> Entry:
        """The reverse of `head`."""
        stamp, size, problem = head["stamp"], head.get("size"), head.get("problem")
        return cls(
            file=head["file"],
            stamp=None if stamp is None else (stamp[0], stamp[1]),
            frame=head.get("frame"),
            timestamp=head.get("timestamp"),
            size=None if size is None else (size[0], size[1]),
            boxes=head["boxes"],
            drawn=head.get("drawn"),
            is_video=head.get("is_video", False),
            frames=head.get("frames"),
            problem=None if problem is None else Problem(problem["code"], problem["detail"]),
            detections=detections,
        )


def stamp_of(file: str) -> Stamp | None:
    """To be taken before the file is read: a change meanwhile then shows the next time."""
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
