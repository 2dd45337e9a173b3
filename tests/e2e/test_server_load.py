"""A server with too much to do: deadlines, a full queue, clients that leave, workers that die or hang."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.factories import encode, make_tiny_artifact, tiles_image
from tests.server_process import ServerProcess, assert_problem, serving, wait_until

TILES = encode(tiles_image())
MODEL_SECONDS = 3


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny").path


@pytest.fixture(scope="module")
def slow_server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Runs one image at a time, 3 s each; three may wait, 2 s at most."""
    folder = tmp_path_factory.mktemp("slow")
    arguments = (
        "--model",
        str(tiny),
        "--backend",
        f"sleep:{MODEL_SECONDS * 1000}",
        "--max-queue",
        "3",
        "--timeout",
        "2",
    )
    with serving(folder, *arguments, max_images=3, max_batch=1, body_timeout=1) as running:
        yield running


@pytest.fixture(scope="module")
def fast_server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(
        tmp_path_factory.mktemp("fast"), "--model", str(tiny), hang_timeout=3, max_batch=16
    ) as running:
        yield running


@pytest.fixture
def clients() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def detect(server: ServerProcess) -> httpx.Response:
    return httpx.post(f"{server.url}/detect", content=TILES, timeout=90)


def batches(server: ServerProcess) -> float:
    return server.metric("hindsight_batch_size_count")


def waiting(server: ServerProcess) -> float:
    return server.metric("hindsight_queue_depth")


@pytest.fixture
def running_image(
    slow_server: ServerProcess, clients: ThreadPoolExecutor
) -> Iterator[Future[httpx.Response]]:
    """An image that occupies the engine while the test runs; it must be answered all the same."""
    wait_until(lambda: waiting(slow_server) == 0, "the test before to be over")
    before = batches(slow_server)
    running = clients.submit(detect, slow_server)
    wait_until(lambda: batches(slow_server) == before + 1, "the image to run")
    yield running
    assert running.result().status_code == 200
    assert batches(slow_server) == before + 1  # nothing of what the test sent was executed


@pytest.mark.usefixtures("running_image")
def test_past_the_deadline_504_and_unexecuted(slow_server: ServerProcess) -> None:
    drops = slow_server.metric("hindsight_drops_total")
    problem = assert_problem(detect(slow_server), 504, "deadline-exceeded")
    assert "2 s" in problem["detail"]
    assert slow_server.metric("hindsight_drops_total") == drops + 1


@pytest.mark.usefixtures("running_image")
def test_a_full_queue_is_503_with_a_computed_retry_after(
    slow_server: ServerProcess, clients: ThreadPoolExecutor
) -> None:
    queued = [clients.submit(detect, slow_server) for _ in range(3)]
    wait_until(lambda: waiting(slow_server) == 3, "three images to wait")
    refused = detect(slow_server)
    assert_problem(refused, 503, "busy")
    # Three images of 3 s wait and one runs: between 9 and 12 seconds.
    assert 3 * MODEL_SECONDS <= int(refused.headers["retry-after"]) <= 4 * MODEL_SECONDS + 1
    assert [each.result().status_code for each in queued] == [504] * 3


@pytest.mark.usefixtures("running_image")
def test_clients_that_leave_take_their_images_out_of_the_queue(slow_server: ServerProcess) -> None:
    drops = slow_server.metric("hindsight_drops_total")
    head = f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {len(TILES)}\r\n\r\n".encode()
    sockets = [socket.create_connection(("127.0.0.1", slow_server.port), timeout=60) for _ in range(3)]
    for each in sockets:
        each.sendall(head + TILES)
    wait_until(lambda: waiting(slow_server) == 3, "three images to wait")
    for each in sockets:
        each.close()
    wait_until(lambda: waiting(slow_server) == 0, "the queue to forget them")
    text = httpx.get(f"{slow_server.url}/metrics").text
    assert 'hindsight_drops_total{reason="disconnected"} 3.0' in text
    assert slow_server.metric("hindsight_drops_total") == drops + 3


def test_a_body_that_does_not_come_is_408(slow_server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", slow_server.port), timeout=60) as raw:
        raw.sendall(b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\npart")
        assert raw.recv(4096).startswith(b"HTTP/1.1 408")


def test_waiting_images_share_one_batch(fast_server: ServerProcess, clients: ThreadPoolExecutor) -> None:
    assert detect(fast_server).status_code == 200
    before = batches(fast_server)
    worker = fast_server.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    try:
        first = clients.submit(detect, fast_server)
        wait_until(lambda: batches(fast_server) == before + 1, "the first to run")
        others = [clients.submit(detect, fast_server) for _ in range(8)]
        wait_until(lambda: waiting(fast_server) == 8, "eight to wait", seconds=2.5)
    finally:
        os.kill(worker, signal.SIGCONT)
    answers = [first.result(), *(each.result() for each in others)]
    assert [answer.status_code for answer in answers] == [200] * 9
    assert len({str(answer.json()["detections"]) for answer in answers}) == 1
    assert batches(fast_server) == before + 2


def test_a_killed_worker_is_503_then_replaced(
    fast_server: ServerProcess, clients: ThreadPoolExecutor
) -> None:
    worker = fast_server.worker_pid()
    before = batches(fast_server)
    os.kill(worker, signal.SIGSTOP)
    running = clients.submit(detect, fast_server)
    wait_until(lambda: batches(fast_server) == before + 1, "the image to run")
    waits = clients.submit(detect, fast_server)
    wait_until(lambda: waiting(fast_server) == 1, "another to wait", seconds=2.5)
    os.kill(worker, signal.SIGKILL)
    for lost in (running.result(), waits.result()):
        assert_problem(lost, 503, "engine-unavailable")
        assert lost.headers["retry-after"] == "1"
    assert httpx.get(f"{fast_server.url}/healthz").status_code == 200
    assert_recovers(fast_server, worker)


def test_an_idle_workers_death_is_noticed(fast_server: ServerProcess) -> None:
    worker = fast_server.worker_pid()
    os.kill(worker, signal.SIGKILL)
    assert_recovers(fast_server, worker)


def test_a_hanging_worker_is_killed_and_replaced(fast_server: ServerProcess) -> None:
    worker = fast_server.worker_pid()
    os.kill(worker, signal.SIGSTOP)
    problem = assert_problem(detect(fast_server), 503, "engine-unavailable")
    assert "3 s" in problem["detail"]
    assert_recovers(fast_server, worker)
    assert [record["cause"] for record in fast_server.log("worker lost")] == ["crash", "crash", "hang"]


def assert_recovers(server: ServerProcess, lost_worker: int) -> None:
    """Another worker answers; readiness was false in between."""
    seen: list[int] = []

    def ready() -> bool:
        seen.append(httpx.get(f"{server.url}/readyz").status_code)
        return seen[-1] == 200 and server.worker_pid() != lost_worker

    wait_until(ready, "a new worker")
    assert 503 in seen
    assert detect(server).status_code == 200
    assert not Path(f"/proc/{lost_worker}").exists()


def test_fifty_clients_at_once_are_all_answered(fast_server: ServerProcess) -> None:
    statuses: list[int] = []
    lock = threading.Lock()

    def hammer() -> None:
        with httpx.Client(base_url=fast_server.url, timeout=90) as client:
            for _ in range(5):
                answer = client.post("/detect", content=TILES)
                with lock:
                    statuses.append(answer.status_code)

    threads = [threading.Thread(target=hammer) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 250
    assert waiting(fast_server) == 0
