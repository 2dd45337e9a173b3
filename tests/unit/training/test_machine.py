"""What result files say of the machine and the code."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pytest

from training import machine


def git(folder: Path, *words: str) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    done = subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_the_commit_is_the_hash_and_says_when_files_differ(tmp_path: Path) -> None:
    git(tmp_path, "init")
    file = tmp_path / "file"
    file.write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-m", "One")
    git(tmp_path, "tag", "-a", "v1", "-m", "One")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert machine.commit(tmp_path) == head
    file.write_text("two")
    assert machine.commit(tmp_path) == f"{head}-dirty"


def test_without_a_checkout_or_git_the_commit_is_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert machine.commit(tmp_path) == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.commit() == "unknown"


def test_the_processor_has_a_name_and_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nprocessor\t: 1\nmodel name\t: Other\n")
    assert machine.processor_name(info) == "Some CPU @ 2.00GHz"
    info.write_text("processor\t: 0\nCPU part\t: 0xd0c\n")
    assert machine.processor_name(info) == (platform.processor() or platform.machine())
    monkeypatch.setattr(machine, "processor_name", lambda: "Some CPU")
    assert machine.hardware("cpu") == machine.processor() == f"Some CPU, {os.cpu_count()} cores"


def test_a_result_says_where_it_comes_from() -> None:
    found = machine.origin("cpu", "torch", "numpy")
    assert list(found) == ["hardware", "versions", "commit", "date"]
    assert found["hardware"] == machine.processor() and found["commit"] == machine.commit()
    assert list(found["versions"]) == ["torch", "numpy"] and found["versions"]["numpy"] == np.__version__
    assert date.fromisoformat(found["date"]) <= datetime.now(UTC).date()
