"""Memory is given back when it has grown, and only then."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service import allocator

MEGABYTE = 2**20


def trims(monkeypatch: pytest.MonkeyPatch, *resident: int) -> list[int]:
    """Run over these readings in MB; -> the readings at which it trimmed."""
    readings = iter(resident)
    last, trimmed = 0, []

    def read() -> int:
        nonlocal last
        last = next(readings, -1)
        if last < 0:
            raise asyncio.CancelledError
        return last * MEGABYTE

    monkeypatch.setattr(allocator, "_INTERVAL", 0)
    monkeypatch.setattr(allocator, "_resident_bytes", read)
    monkeypatch.setattr(allocator, "_of_libc", lambda name: lambda pad: trimmed.append(last))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(allocator.trim_now_and_then())
    return trimmed


def test_growth_is_trimmed_even_if_it_creeps(monkeypatch: pytest.MonkeyPatch) -> None:
    # The baseline, then each look; after a trim, one more reading.
    assert trims(monkeypatch, 100, 120, 131, 133, 110, 136, 115) == [133, 136]


def test_what_stays_small_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert trims(monkeypatch, 100, 90, 110, 121) == []


def test_this_machine_tells_its_memory() -> None:
    assert allocator._resident_bytes() > MEGABYTE


HEAPS_OF_EIGHT_THREADS = """
import ctypes, os, re, sys, threading
os.cpu_count = lambda: 3
if sys.argv[1] == "limited":
    from service.allocator import tune_malloc
    tune_malloc()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
barrier = threading.Barrier(8)
def allocate():
    barrier.wait()
    kept = [bytes(1000) for _ in range(1000)]
    barrier.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file = libc.fopen(sys.argv[2].encode(), b"w")
libc.malloc_info(0, ctypes.c_void_p(file))
libc.fclose(ctypes.c_void_p(file))
print(open(sys.argv[2]).read().count("<heap nr="))
"""


@pytest.mark.skipif(allocator._of_libc("malloc_info") is None, reason="needs glibc")
@pytest.mark.parametrize(
    ("how", "environment", "heaps"),
    [("limited", {}, 3), ("limited", {"MALLOC_ARENA_MAX": "5"}, 5), ("free", {}, 9)],
)
def test_threads_share_a_heap_for_each_core(
    how: str, environment: dict[str, str], heaps: int, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", HEAPS_OF_EIGHT_THREADS, how, str(tmp_path / "info.xml")]
    without = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    answer = subprocess.run(command, env=without | environment, capture_output=True, text=True, check=True)
    assert int(answer.stdout) == heaps
