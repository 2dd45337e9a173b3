"""A job's memory on disk: every answer, as soon as it is there.

A text file. Its first line says what job this is; each further line is an entry, or the name of an output
that the job has written:

    CRC32 of the rest, 8 hexadecimal digits | space | head, JSON | tab | detections, JSON | newline

A line that was cut short by a kill or a power cut ends the file and is dropped; one whose checksum is wrong
is ignored. Either way the image is merely looked at again. The heads alone are kept in memory. A lock holds
off a second process.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import Any

from hindsight.errors import HindsightError
from hindsight.jobs.entries import Entry, Key, Stamp

__all__ = ["JobError", "Journal"]

_FORMAT = 1
_SYNC_SECONDS = 5.0  # a power cut costs at most that much work
_LONGEST_HEADER = 2**20


class JobError(HindsightError):
    """The job cannot go on; what it has done is kept. The message says what to do."""

    code = "job-error"


class Journal:
    """Open one with `Journal.open`. Not safe between threads.

    entries: by key, detections left on disk. written: names of the outputs this job has made. damaged: how
    many lines were found broken. is_new: nothing was there before.
    """

    def __init__(self, path: Path, stream: FileIO) -> None:
        self.path = path
        self.entries: dict[Key, Entry] = {}
        self.written: set[str] = set()
        self.damaged = 0
        self.is_new = False
        self._stream = stream
        self._places: dict[Key, int] = {}
        self._frames: dict[str, dict[int, None]] = {}  # of each video, or every video would go through all
        self._end = 0
        self._synced = time.monotonic()

    @classmethod
    def open(cls, path: Path, job: Mapping[str, Any], *, restart: bool = False) -> Journal:
        """The journal at `path` of the job that `job` describes, made if there is none.

        job: name -> what must not change, JSON. restart: forget what is there. Raises JobError where it is
        another job's, where another process has it, and where it cannot be read or written.
        """
        try:
            # Raw: what is written is with the kernel at once, where kill -9 cannot reach it.
            stream = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644), "r+b")
        except OSError as error:
            raise JobError(f"cannot write {path} ({error.strerror})") from error
        journal = cls(path, stream)
        try:
            journal._lock()
            journal._load(dict(job), restart)
        except OSError as error:
            stream.close()
            raise JobError(f"cannot read {path} ({error.strerror})") from None
        except BaseException:
            stream.close()
            raise
        return journal

    def append(self, entry: Entry) -> None:
        """Keep it, in place of what was known under its key. Raises JobError where it cannot be written."""
        body = json.dumps(entry.detections, separators=(",", ":"), allow_nan=False)
        place = self._write(entry.head(), body)
        self._note(replace(entry, detections=None), place)
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def read(self, key: Key) -> Entry:
        """With its detections. Raises JobError where the disk no longer gives what it was given."""
        with open(self._stream.fileno(), "rb", closefd=False) as buffered:
            buffered.seek(self._places[key])
            line = buffered.readline()
        checked = _checked(line)
        if checked is None:
            raise JobError(f"{self.path} has changed under the job: run the same command again")
        head, body = checked
        return Entry.from_head(head, json.loads(body))

    def frames_of(self, file: str, stamp: Stamp | None) -> list[Entry]:
        """Of the video as it was then, in order."""
        frames = (self.entries[file, frame] for frame in sorted(self._frames.get(file, ())))
        return [entry for entry in frames if entry.stamp == stamp]

    def note_output(self, name: str) -> None:
        """This job writes `name` beside the journal, and may write over it another time."""
        if name not in self.written:
            self._write({"wrote": name}, "null")
            self.sync()
            self.written.add(name)

    def sync(self) -> None:
        """Have it on disk, not only with the system."""
        try:
            os.fsync(self._stream.fileno())
        except OSError as error:
            raise self._cannot_write(error) from error
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and let go of it."""
        try:
            if not self._stream.closed:
                self.sync()
        finally:
            self._stream.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(
                f"{self.path} is in use: another hindsight detect works on it; "
                "wait for it, or give another --out"
            ) from None
        except OSError as error:  # a file system without locks
            raise JobError(f"cannot lock {self.path} ({error.strerror})") from None

    def _load(self, job: dict[str, Any], restart: bool) -> None:
        header = {"hindsight": "detect", "format": _FORMAT, "job": job}
        self.is_new = os.fstat(self._stream.fileno()).st_size == 0
        found = None if restart else self._read_header()
        if found is None:
            if restart:
                self._keep_names()
            self._truncate(0)
            self._write(header, "null")
            for name in sorted(self.written):
                self._write({"wrote": name}, "null")
            self.sync()
            return
        self._compare(found, job)
        self._read_entries()

    def _read_header(self) -> dict[str, Any] | None:
        """None: nothing was ever kept here."""
        self._stream.seek(0)
        size = os.fstat(self._stream.fileno()).st_size
        with open(self._stream.fileno(), "rb", closefd=False) as buffered:
            line = buffered.readline(_LONGEST_HEADER)
        checked = _checked(line)
        if checked is None:
            if line.endswith(b"\n") or size > len(line) or not _could_begin(line):
                raise JobError(
                    f"{self.path} is not the journal of a job, or its beginning is damaged: "
                    "give --restart to start over, or another --out"
                )
            return None
        head = checked[0]
        if head.get("hindsight") != "detect" or head.get("format") != _FORMAT:
            raise JobError(
                f"{self.path} was written by another version of Hindsight (format {head.get('format')}, "
                f"this one has {_FORMAT}): give --restart to start over, or another --out"
            )
        return head

    def _compare(self, found: dict[str, Any], job: dict[str, Any]) -> None:
        before = found["job"]
        changed = [name for name in {**before, **job} if before.get(name) != job.get(name)]
        if changed:
            told = "; ".join(
                f"{name} was {_told(before.get(name))}, now {_told(job.get(name))}" for name in changed
            )
            raise JobError(
                f"{self.path.parent} holds the results of another job: {told}. "
                "Give --restart to start over, or another --out"
            )

    def _read_entries(self) -> None:
        self._stream.seek(0)
        place = 0
        with open(self._stream.fileno(), "rb", closefd=False) as buffered:
            for line in buffered:
                if not line.endswith(b"\n"):
                    break  # cut short
                if place:
                    self._take(line, place)
                place += len(line)
        self._truncate(place)

    def _take(self, line: bytes, place: int) -> None:
        checked = _checked(line)
        if checked is None:
            self.damaged += 1
            return
        head = checked[0]
        if "wrote" in head:
            self.written.add(head["wrote"])
            return
        self._note(Entry.from_head(head), place)

    def _note(self, entry: Entry, place: int) -> None:
        self.entries[entry.key] = entry
        self._places[entry.key] = place
        if entry.frame is not None:
            self._frames.setdefault(entry.file, {})[entry.frame] = None

    def _keep_names(self) -> None:
        """A job that starts over may still write over its own outputs."""
        try:
            if self._read_header() is not None:
                self._read_entries()
        except JobError:
            pass  # nobody knows any more which they were
        self.entries, self._places, self._frames = {}, {}, {}
        self.damaged = 0

    def _write(self, head: Mapping[str, Any], body: str) -> int:
        """Append a line; -> where it begins."""
        text = f"{json.dumps(head, separators=(',', ':'), allow_nan=False)}\t{body}".encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        place, left = self._end, memoryview(line)
        try:
            self._stream.seek(place)
            while left:
                left = left[self._stream.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):  # a line that was begun is no harm
                self._truncate(place)
            raise self._cannot_write(error) from error
        self._end = place + len(line)
        return place

    def _truncate(self, size: int) -> None:
        os.ftruncate(self._stream.fileno(), size)
        self._end = size

    def _cannot_write(self, error: OSError) -> JobError:
        return JobError(
            f"cannot write {self.path} ({error.strerror}): what was done before is kept; "
            "mend that, then run the same command again"
        )


def _checked(line: bytes) -> tuple[dict[str, Any], bytes] | None:
    """(head, body as bytes) of a whole and sound line."""
    if len(line) < 10 or line[8:9] != b" " or not line.endswith(b"\n"):
        return None
    text = line[9:-1]
    if line[:8] != b"%08x" % zlib.crc32(text):
        return None
    head, _, body = text.partition(b"\t")
    parsed: dict[str, Any] = json.loads(head)
    return parsed, body


def _could_begin(line: bytes) -> bool:
    """Whether this is how a header that was cut short may look."""
    digits = all(byte in b"0123456789abcdef" for byte in line[:8])
    return digits and (len(line) < 9 or line[9:].startswith(b'{"hindsight"'[: len(line) - 9]))


def _told(value: object) -> str:
    if value is None:
        return "not given"
    return value if isinstance(value, str) else json.dumps(value)
