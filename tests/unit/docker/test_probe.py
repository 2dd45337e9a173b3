"""`python -m service.probe`, the containers' health check: the server is ready, not ready, not there."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.server_process import REPOSITORY


def probe(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.probe", *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def answering(status: int) -> Iterator[tuple[int, list[str]]]:
    """A server that answers everything so; -> its port, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"ready":false}')

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def test_ready_is_status_0_and_silence() -> None:
    with answering(200) as (port, asked):
        answer = probe(HINDSIGHT_PORT=str(port))
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "", "")
    assert asked == ["/readyz"]


def test_the_address_can_be_given() -> None:
    with answering(200) as (port, asked):
        answer = probe(f"http://localhost:{port}/below/", HINDSIGHT_PORT="1")
    assert answer.returncode == 0
    assert asked == ["/below/readyz"]


def test_a_proxy_is_not_asked() -> None:
    with answering(200) as (port, asked):
        answer = probe(
            HINDSIGHT_PORT=str(port), http_proxy="http://127.0.0.1:9", HTTP_PROXY="http://127.0.0.1:9"
        )
    assert answer.returncode == 0 and asked == ["/readyz"]


def test_not_ready_is_status_1_and_one_line() -> None:
    with answering(503) as (port, _):
        answer = probe(HINDSIGHT_PORT=str(port))
    assert answer.returncode == 1
    (line,) = answer.stderr.splitlines()
    assert "answered 503" in line and '{"ready":false}' in line


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "ftp://127.0.0.1:1"])
def test_nobody_there_is_status_1_and_one_line(url: str) -> None:
    answer = probe(url)
    assert answer.returncode == 1
    assert len(answer.stderr.splitlines()) == 1 and "Traceback" not in answer.stderr


def test_it_loads_nothing_of_the_server() -> None:
    """It runs every ten seconds: FastAPI and numpy would cost more than many a request."""
    code = "import sys, service.probe; print({'fastapi', 'numpy', 'pydantic', 'hindsight'} & {*sys.modules})"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "set()"
