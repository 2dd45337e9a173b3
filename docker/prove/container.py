"""Runs a command with a folder as its root file system, in new namespaces for mounts, processes and network.

Mounts live in the command's own mount namespace: they are gone when it ends, however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

__all__ = ["REPOSITORY", "Container", "Spec", "children_of", "run"]

REPOSITORY = Path(__file__).resolve().parents[2]
Mount = tuple[str, str, str]


@dataclass(frozen=True)
class Spec:
    """See enter.py. `network`: the host's own, or none but loopback."""

    root: Path
    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str = "/"
    user: tuple[int, int] = (0, 0)
    mounts: Sequence[Mount] = ()
    bound: bool = False
    network: bool = True

    def write(self, *, inside: bool = False) -> str:
        """As a file, its path returned. inside: the namespaces and their mounts are there already."""
        handle, path = tempfile.mkstemp(prefix="hindsight-container-", suffix=".json")
        document = {
            "root": str(self.root),
            "argv": list(self.argv),
            "env": dict(self.env),
            "cwd": self.cwd,
            "user": list(self.user),
            "mounts": [] if inside else [list(mount) for mount in self.mounts],
            "bound": self.bound,
            "loopback": not self.network and not inside,
        }
        with os.fdopen(handle, "w") as file:
            json.dump(document, file)
        return path


def _unshare(spec: Spec) -> list[str]:
    spaces = ["--mount", "--pid", "--ipc", "--uts", *([] if spec.network else ["--net"])]
    return ["unshare", *spaces, "--propagation", "private", "--fork", "--kill-child"]


def _enter(path: str) -> list[str]:
    # By its file: in other namespaces the current folder is another one.
    return [sys.executable, str(REPOSITORY / "docker/prove/enter.py"), path]


def run(spec: Spec, log: IO[bytes]) -> int:
    """Run to the end; output goes to `log`. -> exit status."""
    path = spec.write()
    try:
        command = [*_unshare(spec), *_enter(path)]
        return subprocess.run(command, cwd=REPOSITORY, stdout=log, stderr=log, check=False).returncode
    finally:
        Path(path).unlink()


class Container:
    """A command that goes on, as `docker run --detach`: process 1 of its own process namespace."""

    def __init__(self, spec: Spec, log: IO[bytes]) -> None:
        self._spec = spec
        self._path = spec.write()
        command = [*_unshare(spec), *_enter(self._path)]
        self._outer = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)

    @property
    def pid(self) -> int | None:
        """The host's number of the container's process 1; None before it is there."""
        return next(iter(children_of(self._outer.pid)), None)

    @property
    def entered(self) -> bool:
        """Whether process 1 is the command itself: its mounts are there, others may join it."""
        with suppress(OSError):
            return b"enter.py" not in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        return False

    @property
    def running(self) -> bool:
        return self._outer.poll() is None

    def execute(self, argv: Sequence[str], *, bound: bool = True) -> subprocess.CompletedProcess[str]:
        """One more command in the same container, as `docker exec`."""
        spec = Spec(self._spec.root, argv, self._spec.env, self._spec.cwd, self._spec.user, (), bound)
        path = spec.write(inside=True)
        try:
            return self._inside(_enter(path))
        finally:
            Path(path).unlink()

    def from_outside(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """A command of the host's files on the container's network: a client of the server."""
        return self._inside(list(argv), "--net")

    def _inside(self, argv: list[str], *spaces: str) -> subprocess.CompletedProcess[str]:
        spaces = spaces or ("--mount", "--pid", "--ipc", "--uts", "--net")
        command = ["nsenter", "--target", str(self.pid), *spaces, *argv]
        return subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
        )

    def stop(self, sig: signal.Signals, seconds: float) -> int | None:
        """Send `sig` to process 1 and wait; -> exit status, None if it had to be killed."""
        pid = self.pid
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, sig)
        try:
            return self._outer.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            self.close()

    def close(self) -> None:
        """Kill what still runs."""
        if self._outer.poll() is None:
            self._outer.kill()  # --kill-child takes process 1 along, and that its whole namespace
            self._outer.wait()
        with suppress(FileNotFoundError):
            Path(self._path).unlink()


def children_of(pid: int) -> list[int]:
    """The processes that any thread of process `pid` started; none where it is gone."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return found
