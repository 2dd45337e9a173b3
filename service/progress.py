"""Whether a process that says nothing is at work: the processor time it and its descendants use, and the
bytes they read. Needs no help of the process, which may be deep in native code that compiles or copies.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_READ_BYTES = 2**20


@dataclass(frozen=True)
class Activity:
    """What a process and its descendants have used so far. Zero where the system has no /proc."""

    cpu_seconds: float
    read_bytes: int

    def is_at_work_since(self, earlier: "Activity", cpu_seconds: float) -> bool:
        """Whether at least `cpu_seconds`, or a megabyte read, came on top of `earlier`."""
        return (
            self.cpu_seconds - earlier.cpu_seconds >= cpu_seconds
            or self.read_bytes - earlier.read_bytes >= _READ_BYTES
        )


def activity_of(pid: int) -> Activity:
    """Of the process `pid` and all its descendants; nothing for one that is gone."""
    cpu_seconds, read_bytes = 0.0, 0
    for each in _family(pid):
        try:
            stat = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            io = Path(f"/proc/{each}/io").read_text().split()
        except OSError:  # it ended meanwhile, or there is no /proc
            continue
        # Own time in user and kernel mode, then that of children which have ended (proc(5), fields 14 to 17).
        cpu_seconds += sum(map(int, stat[11:15])) / _TICKS
        fields = dict(zip(io[::2], io[1::2], strict=True))
        read_bytes += max(int(fields["rchar:"]), int(fields["read_bytes:"]))
    return Activity(cpu_seconds, read_bytes)


def _family(pid: int) -> Iterator[int]:
    yield pid
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = file.read_text().split()
        except OSError:
            continue
        for child in children:
            yield from _family(int(child))
