"""The journal of a job: what was appended is there again, whatever happened to the process or the file."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest

from hindsight.jobs.entries import Entry, Key, Problem, stamp_of
from hindsight.jobs.journal import JobError, Journal

JOB = {"model": "tiny@1#abc", "score_threshold": 0.3, "classes": None}
ROW = {"box": [1.0, 2.0, 3.5, 4.0], "label": "röd\u2028", "label_id": 0, "score": 0.5, "class_score": 0.5,
       "iou": None, "purity": None, "integrity": None}  # fmt: skip
GOOD = Entry("photos/ä b.jpg", (10, 20), size=(160, 96), boxes=1, drawn="out/ä b.jpg", detections=[ROW])
FRAME = Entry("clip.mp4", (10, 20), 7, 0.233333, (160, 96), 2, detections=[ROW, ROW])
BAD = Entry("bad\udce9.jpg", None, problem=Problem("corrupt-image", "bad: it is broken"))
VIDEO = Entry("clip.mp4", (10, 20), is_video=True, boxes=0)
EVERY = (GOOD, FRAME, BAD, VIDEO)


def opened(path: Path, job: dict[str, object] | None = None, *, restart: bool = False) -> Journal:
    return Journal.open(path, JOB if job is None else job, restart=restart)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with every kind of entry."""
    path = tmp_path / ".hindsight-journal"
    journal = opened(path)
    assert journal.is_new
    for entry in EVERY:
        journal.append(entry)
    journal.note_output("detections.json")
    journal.close()
    return path


def test_what_was_appended_is_read_again(path: Path) -> None:
    journal = opened(path)
    assert not journal.is_new and journal.damaged == 0 and journal.written == {"detections.json"}
    for entry in EVERY:
        assert journal.entries[entry.key] == replace(entry, detections=None)
        assert journal.read(entry.key) == entry
    assert journal.frames_of("clip.mp4", (10, 20)) == [replace(FRAME, detections=None)]
    assert journal.frames_of("clip.mp4", (11, 20)) == []
    journal.close()


def test_frames_come_in_order_each_as_it_was_last_known(path: Path) -> None:
    journal = opened(path)
    for number in (9, 8, 10, 8):
        journal.append(replace(FRAME, frame=number, boxes=number))
    journal.append(replace(FRAME, frame=9, stamp=(11, 20)))
    journal.append(replace(FRAME, file="other.mp4", frame=3))
    for reopened in (journal, None):
        journal = reopened or opened(path)
        assert [entry.frame for entry in journal.frames_of("clip.mp4", (10, 20))] == [7, 8, 10]
        assert [entry.frame for entry in journal.frames_of("clip.mp4", (11, 20))] == [9]
        journal.close()


def test_frames_of_a_video_are_found_without_a_look_at_all_others(tmp_path: Path) -> None:
    class Counting(dict[Key, Entry]):
        looks = 0

        def __getitem__(self, key: Key) -> Entry:
            self.looks += 1
            return super().__getitem__(key)

        def values(self) -> NoReturn:
            raise AssertionError("all entries are looked at for one video")

    journal = opened(tmp_path / "journal")
    for video in range(20):
        for number in range(5):
            journal.append(replace(FRAME, file=f"{video}.mp4", frame=number))
    journal.entries = Counting(journal.entries)
    assert len(journal.frames_of("7.mp4", (10, 20))) == 5
    assert journal.entries.looks == 5
    journal.close()


def test_the_last_entry_of_a_key_holds_also_across_openings(path: Path) -> None:
    later = replace(GOOD, boxes=0, detections=[])
    journal = opened(path)
    journal.append(later)
    assert journal.read(GOOD.key) == later
    journal.close()
    journal = opened(path)
    assert journal.read(GOOD.key) == later
    journal.close()


def test_a_file_cut_short_at_any_byte_loses_only_what_was_cut(path: Path) -> None:
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [sum(map(len, lines[: count + 1])) for count in range(len(lines))]
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        journal = opened(path)
        kept = sum(end <= size for end in ends[1:5])  # behind the header
        assert len(journal.entries) == kept, size
        assert journal.damaged == 0
        journal.append(GOOD)
        journal.close()
        journal = opened(path)
        assert journal.read(GOOD.key) == GOOD and journal.damaged == 0
        journal.close()


def test_a_damaged_line_costs_only_itself(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"clip.mp4") + 2] ^= 1
    path.write_bytes(content)
    journal = opened(path)
    assert journal.damaged == 1
    assert set(journal.entries) == {GOOD.key, BAD.key, VIDEO.key}
    assert journal.read(GOOD.key) == GOOD and journal.read(BAD.key) == BAD
    journal.close()


def test_zeros_at_the_end_as_a_power_cut_leaves_them_are_dropped(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"\0" * 512)
    journal = opened(path)
    assert len(journal.entries) == 4
    journal.append(replace(GOOD, file="new.jpg"))
    journal.close()
    assert b"\0" not in path.read_bytes()


def test_another_job_is_told_apart_and_says_how_to_go_on(path: Path) -> None:
    with pytest.raises(JobError) as told:
        opened(path, {**JOB, "score_threshold": 0.5, "classes": ["red"]})
    assert str(told.value) == (
        f"{path.parent} holds the results of another job: score_threshold was 0.3, now 0.5; "
        'classes was not given, now ["red"]. Give --restart to start over, or another --out'
    )
    journal = opened(path, {**JOB, "score_threshold": 0.5}, restart=True)
    assert journal.entries == {} and journal.written == {"detections.json"}, "it may still write over its own"
    journal.close()
    with pytest.raises(JobError, match=r"score_threshold was 0\.5, now 0\.3"):
        opened(path)


@pytest.mark.parametrize("content", [b'{"a": 1}\n', b"hello", b"0" * 5000, b"00000000 {}\t\n"])
def test_a_file_that_is_no_journal_is_not_touched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(JobError, match="is not the journal of a job, or its beginning is damaged"):
        opened(path)
    assert path.read_bytes() == content
    opened(path, restart=True).close()
    assert path.read_bytes() != content


def test_a_second_process_is_held_off(path: Path) -> None:
    journal = opened(path)
    with pytest.raises(JobError, match="is in use: another hindsight detect works on it"):
        opened(path)
    with pytest.raises(JobError, match="is in use"):
        opened(path, restart=True)
    journal.append(GOOD)
    journal.close()
    opened(path).close()


def test_a_full_disk_is_one_line_and_what_was_there_stays(path: Path) -> None:
    size = path.stat().st_size
    probe = f"""
import resource, signal
from pathlib import Path
from tests.unit.hindsight.jobs.test_journal import GOOD, JobError, opened
journal = opened(Path({str(path)!r}))
resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 40}, {resource.RLIM_INFINITY}))
try:
    journal.append(GOOD)
except JobError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert "File too large): what was done before is kept" in done.stdout and done.stderr == ""
    assert path.stat().st_size == size
    journal = opened(path)
    assert len(journal.entries) == 4 and journal.damaged == 0
    journal.close()


def test_a_journal_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"cannot write .*nowhere/journal \(No such file or directory\)"):
        opened(tmp_path / "nowhere" / "journal")


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    assert stamp_of(str(file)) is None
    file.write_bytes(b"one")
    before = stamp_of(str(file))
    os.utime(file, ns=(0, 1))
    assert stamp_of(str(file)) == (3, 1) != before
