"""A server with too much to do: deadlines, a full queue, clients that leave, workers that die or hang."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from tests.factories import make_tiny_artifact
from tests.server_process import TILES, ServerProcess, assert_problem, serving, wait_until

PLACES = 8
WAIT_SECONDS, HANG_SECONDS = 2, 8


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny").path


@pytest.fixture(scope="module")
def patient(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Lets eight images of one client wait, for as long as a test holds the worker."""
    limits = {
        "max_queue": 11,  # of which a client takes three quarters
        "max_queue_seconds": 300,
        "max_images": PLACES,
        "max_batch": 2 * PLACES,
        "timeout": 300,
        "max_timeout": 300,
        "hang_timeout": 300,
    }
    with serving(tmp_path_factory.mktemp("patient"), "--model", str(tiny), **limits) as running:
        yield running


@pytest.fixture(scope="module")
def impatient(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Gives up soon: on bodies, on images that wait, on its worker."""
    limits = {"timeout": WAIT_SECONDS, "body_timeout": 1, "hang_timeout": HANG_SECONDS}
    with serving(tmp_path_factory.mktemp("impatient"), "--model", str(tiny), **limits) as running:
        yield running


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2 * PLACES) as pool:
        yield pool


def detect(server: ServerProcess) -> httpx.Response:
    return server.client.post("/detect", content=TILES)


def batches(server: ServerProcess) -> float:
    return server.metric("hindsight_batch_size_count")


def waiting(server: ServerProcess) -> float:
    return server.metric("hindsight_queue_depth")


@contextmanager
def occupied(server: ServerProcess, clients: ThreadPoolExecutor) -> Iterator[Future[httpx.Response]]:
    """One image runs for as long as the block lasts, because its worker is stopped; -> its answer to come."""
    before = batches(server)
    worker = server.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    try:
        running = clients.submit(detect, server)
        wait_until(lambda: batches(server) == before + 1, "the image to run")
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)


def test_past_the_deadline_504_and_unexecuted(impatient: ServerProcess, clients: ThreadPoolExecutor) -> None:
    with occupied(impatient, clients) as running:
        before = batches(impatient)
        problem = assert_problem(detect(impatient), 504, "deadline-exceeded")
        assert f"limit {WAIT_SECONDS} s" in problem["detail"]
    assert running.result().status_code == 200
    assert batches(impatient) == before
    assert impatient.metric("hindsight_drops_total") == 1


def test_a_body_that_does_not_come_is_408(impatient: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=60) as raw:
        raw.sendall(b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\npart")
        assert raw.recv(4096).startswith(b"HTTP/1.1 408")
    assert detect(impatient).status_code == 200


def test_a_hanging_worker_is_killed_and_replaced(impatient: ServerProcess) -> None:
    worker = impatient.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    problem = assert_problem(detect(impatient), 503, "engine-unavailable")
    assert f"within {HANG_SECONDS} s" in problem["detail"]
    assert_recovers(impatient, worker)
    assert [record["cause"] for record in impatient.log("worker lost")] == ["hang"]


def test_waiting_images_share_one_batch(patient: ServerProcess, clients: ThreadPoolExecutor) -> None:
    assert detect(patient).status_code == 200
    with occupied(patient, clients) as running:
        before = batches(patient)
        others = [clients.submit(detect, patient) for _ in range(PLACES)]
        wait_until(lambda: waiting(patient) == PLACES, "all to wait")
    answers = [running.result(), *(each.result() for each in others)]
    assert [answer.status_code for answer in answers] == [200] * (PLACES + 1)
    assert len({str(answer.json()["detections"]) for answer in answers}) == 1
    assert batches(patient) == before + 1


def test_a_full_queue_is_503_with_retry_after(patient: ServerProcess, clients: ThreadPoolExecutor) -> None:
    with occupied(patient, clients) as running:
        others = [clients.submit(detect, patient) for _ in range(PLACES)]
        wait_until(lambda: waiting(patient) == PLACES, "the queue to be full")
        refused = detect(patient)
        assert_problem(refused, 503, "busy")
        assert int(refused.headers["retry-after"]) >= 1
    assert [each.result().status_code for each in (running, *others)] == [200] * (PLACES + 1)


def test_a_refusal_does_not_wait_for_the_body_and_leaves_the_connection_in_order(
    patient: ServerProcess, clients: ThreadPoolExecutor
) -> None:
    body = bytes(3_000_000)
    head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with occupied(patient, clients) as running:
        others = [clients.submit(detect, patient) for _ in range(PLACES)]
        wait_until(lambda: waiting(patient) == PLACES, "the queue to be full")
        with socket.create_connection(("127.0.0.1", patient.port), timeout=60) as raw:
            raw.sendall(head)
            received = raw.recv(65536)
            assert received.startswith(b"HTTP/1.1 503")
            raw.sendall(body + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            while not received.endswith(b'{"alive":true}'):
                received += (more := raw.recv(65536))
                assert more, "the connection was closed"
            assert received.count(b"HTTP/1.1 ") == 2
    assert [each.result().status_code for each in (running, *others)] == [200] * (PLACES + 1)


def test_clients_that_leave_take_their_images_out_of_the_queue(
    patient: ServerProcess, clients: ThreadPoolExecutor
) -> None:
    head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(TILES)}\r\n\r\n".encode()
    with occupied(patient, clients) as running:
        before = batches(patient)
        sockets = [socket.create_connection(("127.0.0.1", patient.port), timeout=60) for _ in range(3)]
        for each in sockets:
            each.sendall(head + TILES)
        wait_until(lambda: waiting(patient) == 3, "three images to wait")
        for each in sockets:
            each.close()
        wait_until(lambda: waiting(patient) == 0, "the queue to forget them")
    assert running.result().status_code == 200
    assert batches(patient) == before
    dropped = 'hindsight_drops_total{model="tiny",reason="disconnected"} 3.0'
    assert dropped in patient.client.get("/metrics").text


def test_a_killed_worker_is_503_then_replaced(patient: ServerProcess, clients: ThreadPoolExecutor) -> None:
    worker = patient.worker_pid()
    with occupied(patient, clients) as running:
        waits = clients.submit(detect, patient)
        wait_until(lambda: waiting(patient) == 1, "another to wait")
        os.kill(worker, signal.SIGKILL)
        for lost in (running.result(), waits.result()):
            assert_problem(lost, 503, "engine-unavailable")
            assert lost.headers["retry-after"] == "1"
    assert patient.client.get("/healthz").status_code == 200
    assert_recovers(patient, worker)


def test_an_idle_workers_death_is_noticed(patient: ServerProcess) -> None:
    worker = patient.worker_pid()
    os.kill(worker, signal.SIGKILL)
    assert_recovers(patient, worker)


def assert_recovers(server: ServerProcess, lost_worker: int) -> None:
    """Another worker answers; readiness was false in between."""
    seen: list[int] = []

    def ready() -> bool:
        seen.append(server.client.get("/readyz").status_code)
        return seen[-1] == 200 and server.worker_pid() != lost_worker

    wait_until(ready, "a new worker")
    assert 503 in seen
    assert detect(server).status_code == 200
    assert not Path(f"/proc/{lost_worker}").exists()


def test_many_clients_at_once_are_all_answered(patient: ServerProcess, clients: ThreadPoolExecutor) -> None:
    def ask_often() -> list[int]:
        return [detect(patient).status_code for _ in range(15)]

    answers = [clients.submit(ask_often) for _ in range(PLACES)]
    assert [each.result() for each in answers] == [[200] * 15] * PLACES
    assert waiting(patient) == 0
