"""Servers for benchmarks: started in a process group of their own, awaited, stopped with their children."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hindsight.bench.wire import Address

ROOT = Path(__file__).resolve().parent.parent
_START_SECONDS = 120
_STOP_SECONDS = 30


class DidNotStart(Exception):
    """A server that was needed is not there; with the end of what it said."""


@dataclass(frozen=True)
class Running:
    """A server on 127.0.0.1."""

    port: int
    pid: int

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port, "127.0.0.1")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def process_group(
    command: Sequence[str], settings: Mapping[str, str] | None = None, *, patience: float = _STOP_SECONDS
) -> Iterator[tuple[subprocess.Popen[str], IO[bytes]]]:
    """A program and the file that its stderr goes to. At the end SIGTERM, and after `patience` seconds
    SIGKILL, for it and whatever it has started.
    """
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(settings or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        try:
            yield process, log
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()


@contextmanager
def hindsight_server(*arguments: str, settings: Mapping[str, str] | None = None) -> Iterator[Running]:
    """`hindsight serve` on a free port. Raises DidNotStart."""
    command = [sys.executable, "-m", "service", "--port", "0", "--log-level", "warning", *arguments]
    with process_group(command, settings) as (process, log):
        assert process.stdout is not None
        line = process.stdout.readline()
        if " is ready: " not in line:
            raise DidNotStart(f"hindsight serve did not start: {_tail(log)}")
        yield Running(int(line.split()[3].rpartition(":")[2]), process.pid)


@contextmanager
def peer_server(command: Sequence[str], model: str, backend: str) -> Iterator[Running]:
    """A server that takes --port, --model and --backend. Raises DidNotStart."""
    port = free_port()
    command = [*command, "--port", str(port), "--model", model, "--backend", backend]
    # It would first finish what its clients have long given up.
    with process_group(command, patience=1.0) as (process, log):
        end = time.monotonic() + _START_SECONDS
        while not listens(port):
            if process.poll() is not None or time.monotonic() > end:
                raise DidNotStart(f"{command[2]} did not start: {_tail(log)}")
            time.sleep(0.1)
        yield Running(port, process.pid)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")[-800:]
