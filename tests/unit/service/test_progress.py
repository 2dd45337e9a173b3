"""Telling a silent process that works from one that hangs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.progress import Activity, activity_of


def activity_after(code: str, *arguments: str, seconds: float = 20) -> bool:
    """Whether a process that runs `code` shows .3 s of work, or a megabyte read, within `seconds`."""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        before = activity_of(process.pid)
        end = time.monotonic() + seconds
        try:
            while time.monotonic() < end:
                if activity_of(process.pid).is_at_work_since(before, 0.3):
                    return True
                time.sleep(0.05)
            return False
        finally:
            process.kill()


def test_computing_counts_and_waiting_does_not() -> None:
    assert activity_after("print('begun', flush=True)\nwhile True: pass")
    assert not activity_after("import time; print('begun', flush=True); time.sleep(60)", seconds=2)


def test_what_descendants_compute_counts() -> None:
    child = "import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', {!r}])"
    assert activity_after(child.format(child.format("while True: pass")))


def test_reading_counts(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(2**21))
    code = "import sys, time; print('begun', flush=True); open(sys.argv[1], 'rb').read(); time.sleep(60)"
    assert activity_after(code, str(tmp_path / "weights"))


@pytest.mark.parametrize("pid", [2**22 + 1])
def test_a_process_that_is_gone_does_nothing(pid: int) -> None:
    assert activity_of(pid) == Activity(0.0, 0)
