"""A job: every picture of its sources once, in their order, through an engine, into a journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hindsight.jobs.entries import Entry, Key, Problem, stamp_of
from hindsight.jobs.film import Film
from hindsight.jobs.journal import JobError, Journal
from hindsight.jobs.sources import Source
from hindsight.jobs.work import Engine, Reply, Task, is_engine_trouble
from hindsight.manifest import ClassInfo
from hindsight.video import Sampling, VideoError, expected_frames, read_ahead

__all__ = ["Job", "Listener", "Tally", "Wanted"]

_MOST_TROUBLE = 20  # pictures in a row that failed for no fault of theirs
_MOST_WAITING = 32  # frames to be drawn that wait for one before them
Pixels = NDArray[np.uint8]


class Listener(Protocol):
    """Who is told how the job goes on."""

    def expect(self, pictures: int) -> None:
        """There are so many more (or, below 0, fewer) than was thought."""
        ...

    def advance(self, entry: Entry, *, earlier: bool) -> None:
        """A picture is done; `earlier`: by a run before this one."""
        ...

    def say(self, line: str) -> None:
        """Something that people should know."""
        ...


@dataclass
class Tally:
    """images and frames: looked at or tried, `earlier` of them in a run before. failed: by the problem's
    code. changed: files that are not what they were then, and were done again.
    """

    images: int = 0
    frames: int = 0
    boxes: int = 0
    earlier: int = 0
    changed: set[str] = field(default_factory=set)
    failed: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Wanted:
    """What a job is to do beside detecting. targets: source -> where it goes with its boxes drawn. classes:
    for their colours. shown: told of every picture in the job's order.
    """

    sampling: Sampling
    targets: Mapping[Path, Path]
    classes: tuple[ClassInfo, ...]
    shown: Callable[[Entry], None] | None = None


class Job:
    """keys: what has been looked at, in the job's order, a video as a whole behind its frames."""

    def __init__(
        self,
        sources: Sequence[Source],
        engine: Engine,
        wanted: Wanted,
        listener: Listener,
        journal: Journal | None = None,
    ) -> None:
        self.keys: list[Key] = []
        self.tally = Tally()
        self._sources = sources
        self._engine = engine
        self._wanted = wanted
        self._listener = listener
        self._journal = journal
        self._open: dict[int, tuple[Entry, Pixels | None]] = {}
        self._arrived: dict[int, tuple[Entry, Pixels | None]] = {}
        self._held = 0  # of those that have arrived, how many with pixels
        self._delivered = 0
        self._trouble = 0
        self._film: Film | None = None

    def run(self) -> Tally:
        """To the end. Raises JobError, and what the engine raises, where it cannot go on."""
        tasks = self._tasks()
        try:
            for reply in self._engine.replies(tasks):
                self._answered(reply)
        finally:
            tasks.close()
            if self._film is not None:
                self._film.discard()
        return self.tally

    def _tasks(self) -> Generator[Task, None, None]:
        for source in self._sources:
            if source.is_video:
                yield from self._video(source)
            else:
                yield from self._image(source)

    def _image(self, source: Source) -> Iterator[Task]:
        target = self._wanted.targets.get(source.path)
        entry = Entry(source.file, stamp_of(source.file), drawn=None if target is None else str(target))
        number = self._number(entry.key)
        done = self._done(entry)
        if done is not None and (target is None or target.exists()):
            self._arrive(number, done, None, earlier=True)
            return
        self._open[number] = (entry, None)
        yield Task(number, source.file, target=entry.drawn)

    def _video(self, source: Source) -> Iterator[Task]:
        """Its frames, decoded beside the engine's work; then the video as a whole."""
        target = self._wanted.targets.get(source.path)
        stamp = stamp_of(source.file)
        whole = Entry(source.file, stamp, is_video=True, drawn=None if target is None else str(target))
        frames = self._finished_frames(whole)
        if frames is not None and (target is None or target.exists()):
            self._listener.expect(len(frames) - 1)
            for entry in frames:
                self._arrive(self._number(entry.key), entry, None, earlier=True)
            self._arrive(self._number(whole.key), self._known(whole), None, earlier=True)
            return
        expected = expected_frames(source.path, self._wanted.sampling) or 1
        self._listener.expect(expected - 1)
        seen = 0
        try:
            with read_ahead(source.path, self._wanted.sampling) as decoded:
                for frame in decoded:
                    seen += 1
                    entry = Entry(source.file, stamp, frame.number, frame.timestamp)
                    kept = frame.image if target is not None else None
                    number = self._number(entry.key)
                    done = self._done(entry)
                    # Frames that are done wait in memory for one before them that is not. Where they are
                    # many, the next is done once more: so the engine's window holds us back, too.
                    if done is not None and (kept is None or self._held < _MOST_WAITING):
                        self._arrive(number, done, kept, earlier=True)
                    else:
                        self._open[number] = (entry, kept)
                        yield Task(number, source.file, frame.image)
        except VideoError as error:
            whole = replace(whole, problem=Problem(error.code, str(error)))
        if not seen and whole.problem is None:
            self._listener.say(
                f"{source.file}: nothing to look at: it has no frame between --start and --end"
            )
        self._listener.expect(seen - expected)
        self._arrive(self._number(whole.key), replace(whole, frames=seen), None, earlier=False)

    def _finished_frames(self, whole: Entry) -> list[Entry] | None:
        """Of a video that a run before has looked at to its end; None where there is something left to do."""
        known = self._done(whole)
        if self._journal is None or known is None:
            return None
        frames = self._journal.frames_of(whole.file, whole.stamp)
        sound = len(frames) == known.frames and all(entry.problem is None for entry in frames)
        return frames if sound else None

    def _known(self, entry: Entry) -> Entry:
        assert self._journal is not None
        return self._journal.entries[entry.key]

    def _done(self, entry: Entry) -> Entry | None:
        """What a run before has kept of it, if that still holds."""
        known = None if self._journal is None else self._journal.entries.get(entry.key)
        if known is None or known.problem is not None:
            return None
        if known.stamp != entry.stamp:
            self.tally.changed.add(entry.file)
            return None
        return known if known.drawn == entry.drawn else None

    def _number(self, key: Key) -> int:
        self.keys.append(key)
        return len(self.keys) - 1

    def _answered(self, reply: Reply) -> None:
        entry, pixels = self._open.pop(reply.task.number)
        if reply.problem is None:
            assert reply.detections is not None
            entry = replace(entry, size=reply.size, boxes=len(reply.detections), detections=reply.detections)
            self._trouble = 0
        else:
            entry = replace(entry, problem=_named(reply.problem, entry), drawn=None)
        if self._journal is not None:
            self._journal.append(entry)
        self._arrive(reply.task.number, entry, pixels, earlier=False)
        if entry.problem is not None and is_engine_trouble(entry.problem):
            self._trouble += 1
            if self._trouble >= _MOST_TROUBLE:
                raise JobError(
                    f"{_MOST_TROUBLE} in a row failed for reasons that are not theirs, the last one: "
                    f"{entry.problem.detail}"
                )

    def _arrive(self, number: int, entry: Entry, pixels: Pixels | None, *, earlier: bool) -> None:
        """Count it; what is in turn is delivered."""
        self._count(entry, earlier)
        self._arrived[number] = (entry, pixels)
        self._held += pixels is not None
        while self._delivered in self._arrived:
            entry, pixels = self._arrived.pop(self._delivered)
            self._held -= pixels is not None
            self._deliver(entry, pixels)
            self._delivered += 1

    def _count(self, entry: Entry, earlier: bool) -> None:
        if entry.is_video:
            return
        if entry.frame is None:
            self.tally.images += 1
        else:
            self.tally.frames += 1
        self.tally.boxes += entry.boxes
        self.tally.earlier += earlier
        if entry.problem is not None:
            self.tally.failed[entry.problem.code] += 1
            self._listener.say(entry.problem.detail)
        self._listener.advance(entry, earlier=earlier)

    def _deliver(self, entry: Entry, pixels: Pixels | None) -> None:
        if entry.is_video:
            self._end_of_video(entry)
            return
        if self._wanted.shown is None and pixels is None:
            return
        whole = self._with_detections(entry)
        if self._wanted.shown is not None:
            self._wanted.shown(whole)
        if pixels is not None:
            if self._film is None:
                target = self._wanted.targets[Path(entry.file)]
                self._film = Film(entry.file, target, self._wanted.classes, self._listener.say)
            self._film.add(whole, pixels)

    def _with_detections(self, entry: Entry) -> Entry:
        if entry.detections is None and entry.problem is None and self._journal is not None:
            return self._journal.read(entry.key)
        return entry

    def _end_of_video(self, entry: Entry) -> None:
        """All of its frames have been delivered."""
        film, self._film = self._film, None
        problem = None if film is None else film.end()
        if entry.problem is None and problem is not None:
            entry = replace(entry, problem=problem)
        if entry.problem is not None:
            self.tally.failed[entry.problem.code] += 1
            self._listener.say(entry.problem.detail)
        if self._journal is not None and self._journal.entries.get(entry.key) != entry:
            self._journal.append(entry)


def _named(problem: Problem, entry: Entry) -> Problem:
    """Every problem names its file, whoever found it."""
    if entry.frame is None and problem.detail.startswith((f"{entry.file}:", "--annotate:")):
        return problem
    detail = problem.detail.removeprefix(f"{entry.file}: ")
    return Problem(problem.code, f"{entry.name}: {detail}")
