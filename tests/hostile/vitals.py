"""What an attack must leave as it was: processes, descriptors, threads, shared memory, connections."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tests.server_process import ServerProcess, wait_until

# Pools start their threads when they first need them: two to decode, those of asyncio.to_thread, and one for
# each worker's pipe. More than these would be leaked.
_LAZY_THREADS = 2 + min(32, (os.cpu_count() or 1) + 4) + 1
_KILOBYTE = 1024


@dataclass(frozen=True)
class Vitals:
    """Of the server's process tree."""

    worker: int
    processes: int
    descriptors: int
    threads: int
    blocks: int


def process_tree(root: int) -> list[int]:
    """`root` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found, pending = [], [root]
    while pending:
        process = pending.pop()
        found.append(process)
        pending.extend(children.get(process, []))
    return found


def pss_bytes(root: int) -> int:
    """Memory of the process tree, where shared pages count once (proportional set size)."""
    total = 0
    for process in process_tree(root):
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # it has just ended
            continue
        total += sum(int(line.split()[1]) * _KILOBYTE for line in lines if line.startswith("Pss:"))
    return total


def vitals_of(server: ServerProcess) -> Vitals:
    processes = process_tree(server.process.pid)
    blocks: set[str] = set()
    descriptors = threads = 0
    for process in processes:
        folder = Path(f"/proc/{process}")
        descriptors += len(list((folder / "fd").iterdir()))
        threads += len(list((folder / "task").iterdir()))
        blocks |= {
            line.rpartition("/")[2] for line in (folder / "maps").read_text().splitlines() if "/psm_" in line
        }
    return Vitals(server.worker_pid(), len(processes), descriptors, threads, len(blocks))


def assert_unharmed(server: ServerProcess, before: Vitals) -> None:
    """The worker that was there is there; nothing of the attack is left, within a while."""

    def settled() -> bool:
        now = vitals_of(server)
        return now.descriptors <= before.descriptors and now.processes == before.processes

    wait_until(settled, f"descriptors and processes as before: {before}, now {vitals_of(server)}")
    now = vitals_of(server)
    assert now.worker == before.worker, "the worker was replaced"
    assert now.threads <= before.threads + _LAZY_THREADS
    assert now.blocks <= max(before.blocks, 2), "an engine has one block for requests and one for replies"
