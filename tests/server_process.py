"""A real server in its own process, for tests that talk to it through sockets."""

from __future__ import annotations

import json
import os
import queue
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.keys import create_key
from service.schemas import DetectResponse
from tests.factories import encode, tiles_image

REPOSITORY = Path(__file__).resolve().parent.parent
_START_SECONDS = 120
TILES = encode(tiles_image())
RED_BOX, GREEN_BOX = [32, 0, 64, 32], [96, 64, 128, 96]  # what is found in it


class ServerProcess:
    """`python -m service` on a free port. Log lines go to a file and are read from there."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        verify: ssl.SSLContext | bool = True,
        admin: bool = False,
        **settings: object,
    ) -> None:
        """settings: HINDSIGHT_* variables, by lower-case name; a name in capitals is the variable itself.
        verify: how the client checks a server with TLS. admin: `client` has an admin key; nobody else needs
        a key to detect.
        """
        headers = {}
        if admin:
            file = folder / "keys.jsonl"
            headers["authorization"] = f"Bearer {create_key(file, 'admin', 'admin')}"
            settings |= {"keys_file": file, "anonymous": True}
        self.log_path = folder / "server.log"
        variables = {
            name if name.isupper() else f"HINDSIGHT_{name.upper()}": str(value)
            for name, value in settings.items()
        }
        self._log = self.log_path.open("wb")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service", "--port", "0", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.ready_line = ""
        self.url = self._wait_for_url()
        self.port = int(self.url.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.url, timeout=90, verify=verify, headers=headers)

    def _wait_for_url(self) -> str:
        lines: queue.Queue[str] = queue.Queue()
        stdout = self.process.stdout
        assert stdout is not None
        threading.Thread(target=lambda: lines.put(stdout.readline()), daemon=True).start()
        try:
            line = lines.get(timeout=_START_SECONDS)
        except queue.Empty:
            line = ""
        if not line.startswith("Hindsight is ready: http"):
            self.close()
            raise AssertionError(f"the server did not become ready: {line!r}\n{self.log_path.read_text()}")
        self.ready_line = line.strip()
        return line.split()[3]

    def log(self, message: str | None = None) -> list[dict[str, Any]]:
        """The log so far; only records of this message, if given. Every line must be JSON."""
        records = [json.loads(line) for line in self.log_path.read_text().splitlines()]
        return [record for record in records if message in (None, record["message"])]

    def worker_pid(self) -> int:
        """The worker that became ready last."""
        return int(self.log("worker ready")[-1]["pid"])

    def left(self) -> int:
        """Clients that went away before their answer."""
        return sum(record["status"] == 499 for record in self.log("request"))

    def metric(self, name: str) -> float:
        """The sum of all samples called exactly `name` (labels aside)."""
        text = self.client.get("/metrics").text
        samples = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
        return sum(float(line.rpartition(" ")[2]) for line in samples)

    def peak_kilobytes(self) -> int:
        """Most memory the server process (not its worker) ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])

    def close(self) -> int:
        """SIGTERM, then wait; -> exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        if hasattr(self, "client"):
            self.client.close()
        self._log.close()
        return code


@contextmanager
def serving(
    folder: Path, *arguments: str, verify: ssl.SSLContext | bool = True, **settings: object
) -> Iterator[ServerProcess]:
    """A ready server, stopped at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    server = ServerProcess(folder, *arguments, verify=verify, **settings)
    try:
        yield server
    finally:
        server.close()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Poll `condition`; AssertionError naming `what` when it does not come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for: {what}"
        time.sleep(0.02)


@contextmanager
def stopped_worker(server: ServerProcess, content: bytes = TILES) -> Iterator[None]:
    """One image, `content`, is in the worker, which does not get on with it."""
    worker = server.worker_pid()
    before = server.metric("hindsight_batch_size_count")
    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        try:
            running = pool.submit(server.client.post, "/detect", content=content)
            wait_until(lambda: server.metric("hindsight_batch_size_count") == before + 1, "the image to run")
            yield
        finally:
            os.kill(worker, signal.SIGCONT)
        assert running.result().status_code == 200


def assert_problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """The response is this RFC 9457 problem; -> its document."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert document["type"] == f"/docs#{slug}", document
    assert document["status"] == status
    assert document["detail"] and "\n" not in document["detail"]
    assert document["request_id"] == response.headers["x-request-id"]
    return document


def assert_finds_tiles(document: dict[str, Any]) -> None:
    """The two tiles of tiles_image, with all four numbers."""
    found = DetectResponse.model_validate(document)
    assert [detection.label for detection in found.detections] == ["red", "green"]
    assert list(found.detections[0].box) == RED_BOX
    assert list(found.detections[1].box) == GREEN_BOX
    red = found.detections[0]
    assert (red.class_score, red.purity, red.integrity, red.iou) == pytest.approx((1, 1, 0.8, 0.8), abs=1e-4)
    assert red.score == pytest.approx(0.8**0.5, abs=1e-4)
