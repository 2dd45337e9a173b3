"""One image's work, wherever it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from hindsight.api import Detector, read_image
from hindsight.detections import Detections
from hindsight.draw import annotate
from hindsight.errors import DeviceLost, HindsightError, OptionError, RuntimeFailure, ServiceError
from hindsight.formats import Record
from hindsight.jobs.entries import Problem
from hindsight.jobs.journal import JobError
from hindsight.jobs.marks import mark_of, may_write
from hindsight.manifest import ClassInfo
from hindsight.whole_files import whole_file

__all__ = [
    "Alone",
    "Engine",
    "Reply",
    "Task",
    "Window",
    "is_engine_trouble",
    "look_at",
    "problem_of",
    "save_picture",
]

_TROUBLE = frozenset(kind.code for kind in (RuntimeFailure, DeviceLost, ServiceError, JobError))
WORKER_DIED = "worker-died"


@dataclass(frozen=True, eq=False)
class Task:
    """One picture to look at. number: its place in the job. pixels: uint8 [H, W, 3] of a video's frame; None:
    the file is to be read. target: where the picture goes with its boxes drawn, if anywhere.
    """

    number: int
    file: str
    pixels: NDArray[np.uint8] | None = None
    target: str | None = None


@dataclass(frozen=True, eq=False)
class Reply:
    """What became of a task: size (width, height) and detections, or a problem."""

    task: Task
    size: tuple[int, int] | None = None
    detections: list[Record] | None = None
    problem: Problem | None = None


class Engine(Protocol):
    """Who does the work."""

    def replies(self, tasks: Iterator[Task]) -> Iterator[Reply]:
        """One reply a task, in any order. A task is taken when there is somebody free to do it, and never
        further ahead of the oldest one under way than a few for each of them. Raises HindsightError where
        the whole job cannot go on.
        """
        ...

    def close(self) -> None:
        """End at once, tasks that are under way included."""
        ...


class Alone:
    """The work done here, one picture after the other."""

    def __init__(self, detector: Detector, options: dict[str, Any]) -> None:
        self._detector = detector
        self._options = options

    def replies(self, tasks: Iterator[Task]) -> Iterator[Reply]:
        """See Engine."""
        classes = self._detector.artifact.manifest.classes
        for task in tasks:
            yield look_at(task, lambda image: self._detector.detect(image, **self._options), classes)

    def close(self) -> None:
        """Nothing runs between replies; the detector belongs to the caller."""


class Window:
    """Keeps those who take tasks from running away from the slowest of them. most: how far ahead."""

    def __init__(self, tasks: Iterable[Task], most: int) -> None:
        self._tasks = iter(tasks)
        self._most = most
        self._taken = 0
        self._open: dict[int, int] = {}  # task number -> how many were taken before it; oldest first
        self._again: list[Task] = []

    def next(self) -> Task | None:
        """None: nothing for now, or nothing any more."""
        if self._again:
            return self._again.pop()
        oldest = next(iter(self._open.values()), self._taken)
        if self._taken - oldest >= self._most:
            return None
        task = next(self._tasks, None)
        if task is not None:
            self._open[task.number] = self._taken
            self._taken += 1
        return task

    def give_back(self, task: Task) -> None:
        """It is to be taken once more."""
        self._again.append(task)

    def done(self, task: Task) -> None:
        """There is a reply."""
        del self._open[task.number]


def look_at(
    task: Task, detect: Callable[[NDArray[np.uint8]], Detections], classes: tuple[ClassInfo, ...]
) -> Reply:
    """Read, detect, draw. Whatever is wrong with the picture comes back as its problem."""
    try:
        image = read_image(Path(task.file)) if task.pixels is None else task.pixels
        found = detect(image)
        if task.target is not None:
            save_picture(annotate(image, found, classes), Path(task.target), task.file)
    except Exception as error:
        return Reply(task, problem=problem_of(error, task.file))
    height, width = found.image_hw
    return Reply(task, (width, height), found.to_records())


def problem_of(error: Exception, file: str) -> Problem:
    """In one line. A fault of ours in one picture, too, must not cost the other 99,999."""
    text = " ".join(str(error).split())
    if isinstance(error, HindsightError):
        return Problem(error.code, text)
    return Problem(HindsightError.code, f"{file}: {type(error).__name__}: {text}")


def save_picture(picture: Image.Image, target: Path, file: str) -> None:
    """Whole or not at all, with the mark of `file`, which it was drawn from. Raises OptionError where
    somebody else's file is there, or the format cannot hold it; JobError where the disk does not take it.
    """
    if not may_write(target, file):
        raise OptionError(f"--annotate: {target} was not drawn from {file} and is left as it is")
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = mark_of(file)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as draft:
            picture.save(draft, quality=92, exif=exif)
    except (OSError, ValueError) as error:  # ValueError: more pixels a side than the format can hold
        reason = getattr(error, "strerror", None)
        kind = OptionError if reason is None else JobError
        raise kind(f"--annotate: cannot write {target} ({reason or error})") from error


def is_engine_trouble(problem: Problem) -> bool:
    """Whether it says more about who did the work, or about the disk, than about the picture."""
    return problem.code in _TROUBLE or problem.code == WORKER_DIED
