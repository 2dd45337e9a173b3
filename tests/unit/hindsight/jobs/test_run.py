"""A job between its journal and its engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hindsight.jobs.entries import Entry, stamp_of
from hindsight.jobs.journal import Journal
from hindsight.jobs.run import Job, Wanted
from hindsight.jobs.sources import Source
from hindsight.jobs.work import Reply, Task, Window
from hindsight.manifest import ClassInfo
from hindsight.video import Sampling, read_frames
from hindsight.video_writer import VideoWriter
from tests.factories import tiles_image

FRAMES = 120
AHEAD = 4


class Listens:
    def __init__(self) -> None:
        self.heard: list[int | None] = []

    def expect(self, pictures: int) -> None: ...

    def advance(self, entry: Entry, *, earlier: bool) -> None:
        self.heard.append(entry.frame)

    def say(self, line: str) -> None:
        raise AssertionError(line)


class StuckOnTheFirst:
    """Answers the first task when there is nothing else left to take."""

    def replies(self, tasks: Iterator[Task]) -> Iterator[Reply]:
        window = Window(tasks, AHEAD)
        held = window.next()
        while held is not None:
            while (task := window.next()) is not None:
                window.done(task)
                yield Reply(task, (160, 96), [])
            window.done(held)
            yield Reply(held, (160, 96), [])
            held = window.next()

    def close(self) -> None: ...


def test_frames_that_are_done_do_not_pile_up_behind_one_that_is_not(tmp_path: Path) -> None:
    clip, drawn = tmp_path / "clip.mp4", tmp_path / "drawn.mp4"
    with VideoWriter(clip) as writer:
        for number in range(FRAMES):
            writer.write(tiles_image(), number / 10)
    journal = Journal.open(tmp_path / "journal", {})
    for number in range(1, FRAMES):
        entry = Entry(str(clip), stamp_of(str(clip)), number, number / 10, (160, 96), detections=[])
        journal.append(entry)
    listener = Listens()
    wanted = Wanted(Sampling(), {clip: drawn}, (ClassInfo("red", "#ff0000"),))
    job = Job([Source(clip, Path(clip.name))], StuckOnTheFirst(), wanted, listener, journal)
    tally = job.run()
    journal.close()
    assert listener.heard.index(0) < 50, "frames kept in memory until the first one is answered"
    assert sorted(listener.heard) == list(range(FRAMES)), "each once"
    assert tally.frames == FRAMES and FRAMES // 2 < tally.earlier < FRAMES
    assert sum(1 for _ in read_frames(drawn)) == FRAMES
