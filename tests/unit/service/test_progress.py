"""Telling a silent process that works from one that hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.progress import Activity, activity_of


def activity_after(code: str, *arguments: str, seconds: float = 20) -> bool:
    """Whether a process that runs `code`, once it has been told to, shows .3 s of work, or a megabyte read,
    within `seconds`.
    """
    command = [
        sys.executable,
        "-c",
        f"import sys, time; print('up', flush=True); input(); {code}",
        *arguments,
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "up\n"
        before = activity_of(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                if activity_of(process.pid).is_at_work_since(before, 0.3):
                    return True
                time.sleep(0.05)
            return False
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # and its descendants


_COMPUTE = "import time; end = time.monotonic() + 20; any(time.monotonic() > end for _ in iter(int, 1))"


def test_computing_counts_and_waiting_does_not() -> None:
    assert activity_after(_COMPUTE)
    assert not activity_after("time.sleep(60)", seconds=2)


def test_what_descendants_compute_counts() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', {!r}])"
    assert activity_after(child.format(child.format(_COMPUTE)))


def test_reading_counts(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(2**21))
    assert activity_after("open(sys.argv[1], 'rb').read(); time.sleep(60)", str(tmp_path / "weights"))


@pytest.mark.parametrize("pid", [2**22 + 1])
def test_a_process_that_is_gone_does_nothing(pid: int) -> None:
    assert activity_of(pid) == Activity(0.0, 0)
