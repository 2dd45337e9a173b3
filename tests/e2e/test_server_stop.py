"""SIGTERM: what was sent is answered, in order, within the limit; nobody is left in silence."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from tests.e2e import pretend_runtime
from tests.factories import make_tiny_artifact
from tests.server_process import TILES, ServerProcess, assert_problem, serving, wait_until

CLIENTS = 6
HEAD = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(TILES)}\r\n\r\n".encode()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny").path


@contextmanager
def sleeping(tiny: Path, folder: Path, milliseconds: int, **settings: object) -> Iterator[ServerProcess]:
    words = ("--model", str(tiny), "--backend", f"sleep:{milliseconds}")
    with serving(folder / "server", *words, max_batch=1, **settings) as server:
        yield server


def detect(server: ServerProcess) -> httpx.Response:
    return httpx.post(f"{server.url}/detect", content=TILES, timeout=60)


def terminate(server: ServerProcess) -> None:
    server.process.send_signal(signal.SIGTERM)


def ends_within(server: ServerProcess, seconds: float) -> None:
    start = time.monotonic()
    assert server.process.wait(60) == 0
    assert time.monotonic() - start < seconds


@dataclass
class Sent:
    """Requests by when they were sent completely (time.monotonic), and what came of them."""

    answered: list[tuple[float, int]] = field(default_factory=list)
    lost: list[tuple[float, str]] = field(default_factory=list)


def send_until_refused(port: int, sent: Sent, keep: bool) -> None:
    """One request after the other, on one connection if `keep`, until the server takes no more."""
    while True:
        try:
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
        except OSError:
            return
        with connection:
            go_on = True
            while go_on:
                try:
                    connection.sendall(HEAD + TILES)
                except OSError:
                    break  # not sent completely
                at = time.monotonic()
                try:
                    answer = http.client.HTTPResponse(connection)
                    answer.begin()
                    answer.read()  # raises unless it is complete
                except (OSError, http.client.HTTPException) as error:
                    sent.lost.append((at, repr(error)))
                    break
                sent.answered.append((at, answer.status))
                go_on = keep and not answer.will_close


def last_acceptance(port: int) -> float:
    """Connect until that is refused; -> when the last that was accepted had begun."""
    last = 0.0
    while True:
        begun = time.monotonic()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=60).close()
        except OSError:
            return last
        last = begun
        time.sleep(0.001)


@pytest.mark.parametrize("round_number", range(3))
def test_whatever_was_sent_before_the_listener_closed_is_answered(
    tiny: Path, tmp_path: Path, round_number: int
) -> None:
    with sleeping(tiny, tmp_path, 15, max_queue=500) as server, ThreadPoolExecutor(2 * CLIENTS + 1) as pool:
        sent = [Sent() for _ in range(2 * CLIENTS)]
        clients = [
            pool.submit(send_until_refused, server.port, each, number % 2 == 0)
            for number, each in enumerate(sent)
        ]
        wait_until(lambda: all(len(each.answered) > 3 for each in sent), "traffic to flow")
        time.sleep(0.013 * round_number)
        closing = pool.submit(last_acceptance, server.port)
        terminate(server)
        closed = closing.result()
        for client in clients:
            client.result()
        assert server.process.wait(60) == 0
    answered = [status for each in sent for _, status in each.answered]
    assert set(answered) == {200}
    assert [loss for each in sent for loss in each.lost if loss[0] < closed] == []
    assert any(at > closed - 0.5 for each in sent for at, _ in each.answered)


def test_readiness_goes_first_and_the_delay_still_accepts(tiny: Path, tmp_path: Path) -> None:
    with sleeping(tiny, tmp_path, 1, drain_delay=2, admin=True) as server:
        assert "connection" not in detect(server).headers
        start = time.monotonic()
        terminate(server)
        wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 503, "readiness to go")
        document = httpx.get(f"{server.url}/readyz").json()
        assert document["draining"] and not document["ready"] and document["workers"][0]["state"] == "ready"
        response = detect(server)
        assert response.status_code == 200 and response.headers["connection"] == "close"
        assert_problem(server.client.post("/models/tiny/load"), 503, "engine-unavailable")
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert server.process.wait(60) == 0
        assert time.monotonic() - start > 2


def test_what_lies_unread_when_the_listener_closes_is_answered(tiny: Path, tmp_path: Path) -> None:
    """Requests on connections that were idle, and on connections that the server had not even accepted."""
    with sleeping(tiny, tmp_path, 1, drain_delay=1, shutdown_timeout=20) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(3)]
        for each in idle:
            each.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert _answer(each) == 200
        terminate(server)
        wait_until(lambda: bool(server.log("stopping")), "the stop to begin")
        server.process.send_signal(signal.SIGSTOP)
        new = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(3)]
        for each in (*idle, *new):
            each.sendall(HEAD + TILES)
        time.sleep(1.5)  # so that the delay is over when it goes on: the listener closes at once
        server.process.send_signal(signal.SIGCONT)
        statuses = [_answer(each) for each in (*idle, *new)]
        for each in (*idle, *new):
            each.close()
        assert statuses == [200] * 6
        ends_within(server, 20)


def test_idle_connections_do_not_hold_up_the_end(tiny: Path, tmp_path: Path) -> None:
    with sleeping(tiny, tmp_path, 1) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(3)]
        assert server.client.get("/healthz").status_code == 200  # a keep-alive connection
        terminate(server)
        ends_within(server, 10)
        for each in idle:
            assert each.recv(1) == b""
            each.close()


@contextmanager
def one_runs_and_three_wait(
    server: ServerProcess,
) -> Iterator[list[Future[httpx.Response]]]:
    """The worker is stopped in the middle of an image."""
    before = server.metric("hindsight_batch_size_count")
    os.kill(server.worker_pid(), signal.SIGSTOP)
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(detect, server) for _ in range(4)]
        wait_until(lambda: server.metric("hindsight_batch_size_count") == before + 1, "an image to run")
        wait_until(lambda: server.metric("hindsight_queue_depth") == 3, "three to wait")
        yield answers


def test_past_the_limit_the_rest_is_told(tiny: Path, tmp_path: Path) -> None:
    with (
        sleeping(tiny, tmp_path, 1, shutdown_timeout=1, timeout=60) as server,
        one_runs_and_three_wait(server) as answers,
    ):
        terminate(server)
        for answer in answers:
            assert "shutting down" in assert_problem(answer.result(), 503, "engine-unavailable")["detail"]
        ends_within(server, 15)


def test_a_second_signal_stops_at_once(tiny: Path, tmp_path: Path) -> None:
    with (
        sleeping(tiny, tmp_path, 1, timeout=60) as server,
        one_runs_and_three_wait(server) as answers,
    ):
        worker = server.worker_pid()
        terminate(server)
        wait_until(lambda: bool(server.log("stopping")), "the stop to begin")
        terminate(server)
        for answer in answers:
            assert_problem(answer.result(), 503, "engine-unavailable")
        ends_within(server, 10)
        assert not Path(f"/proc/{worker}").exists()


def test_a_worker_that_dies_during_the_drain_leaves_nobody_in_silence(tiny: Path, tmp_path: Path) -> None:
    with (
        sleeping(tiny, tmp_path, 1, timeout=60) as server,
        one_runs_and_three_wait(server) as answers,
    ):
        terminate(server)
        wait_until(lambda: bool(server.log("stopping")), "the stop to begin")
        os.kill(server.worker_pid(), signal.SIGKILL)
        for answer in answers:
            assert_problem(answer.result(), 503, "engine-unavailable")
        ends_within(server, 10)


def test_a_half_sent_body_is_waited_for(tiny: Path, tmp_path: Path) -> None:
    with (
        sleeping(tiny, tmp_path, 1) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as half,
    ):
        half.sendall(HEAD + TILES[:50])
        time.sleep(0.2)
        terminate(server)
        wait_until(lambda: bool(server.log("stopping")), "the stop to begin")
        wait_until(lambda: _refused(server.port), "the listener to close")
        half.sendall(TILES[50:])
        assert _answer(half) == 200
        ends_within(server, 10)


def test_a_stop_gives_up_a_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", pretend_runtime.install(tmp_path / "site"))
    folder = tmp_path / "models"
    make_tiny_artifact(folder / "tiny" / "1")
    words = ("--models", str(folder), "--backend", "pretend:1")
    with serving(tmp_path / "server", *words, admin=True, shutdown_timeout=1) as server:
        make_tiny_artifact(folder / "tiny" / "2", version="2", training_data={"trouble": "hang on load"})
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(server.client.post, "/models/tiny/load")
            wait_until(
                lambda: server.client.get("/models/tiny").json()["versions"][0]["state"] == "loading",
                "the load to begin",
            )
            children = _children(server.process.pid)
            terminate(server)
            assert "shutting down" in assert_problem(loading.result(), 503, "engine-unavailable")["detail"]
        ends_within(server, 15)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), "all processes to end")


def _children(pid: int) -> list[int]:
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in files for child in file.read_text().split()]


def _answer(connection: socket.socket) -> int:
    """The status of the next answer, which is complete; 0 where none comes."""
    answer = http.client.HTTPResponse(connection)
    try:
        answer.begin()
        answer.read()
    except (OSError, http.client.HTTPException):
        return 0
    return answer.status


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except OSError:
        return True
    return False
