"""What a process and its children hold: proportional set size, in which shared pages count once in all."""

from __future__ import annotations

import contextlib
from pathlib import Path

PROC = Path("/proc")


def tree_pss_megabytes(pid: int, proc: Path = PROC) -> float:
    """Of `pid` and all that descend from it; a process that ends meanwhile counts nothing. Linux only."""
    return sum(_pss_kilobytes(proc / str(each)) for each in family(pid, proc)) / 1024


def family(pid: int, proc: Path = PROC) -> list[int]:
    """`pid` and its descendants."""
    children: dict[int, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # "7 (a name) S 3 ...": the name may hold blanks and brackets.
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, pending = [], [pid]
    while pending:
        each = pending.pop()
        found.append(each)
        pending += children.get(each, [])
    return found


def _pss_kilobytes(process: Path) -> int:
    with contextlib.suppress(OSError):
        for line in (process / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
