"""Deadlines from the first byte on, and clients that leave at any stage: nothing is done for nobody."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from tests.e2e.rough_runtime import executed, marked, serving_roughly
from tests.factories import encode, make_tiny_artifact
from tests.server_process import ServerProcess, assert_problem, stopped_worker, wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One decoding thread, and a worker that tests stop for as long as they like."""
    limits = {
        "decode_threads": 1,
        "timeout": 100,
        "max_timeout": 100,
        "hang_timeout": 300,
        "max_queue_seconds": 60,
        "body_timeout": 100,
    }
    folder = tmp_path_factory.mktemp("rough")
    tiny = make_tiny_artifact(folder / "tiny").path
    with serving_roughly(folder, "rough", [tiny], **limits) as running:
        yield running


def dropped(server: ServerProcess, reason: str) -> float:
    line = f'hindsight_drops_total{{model="tiny",reason="{reason}"}} '
    text = server.client.get("/metrics").text
    return next((float(row.removeprefix(line)) for row in text.splitlines() if row.startswith(line)), 0.0)


def opened(
    server: ServerProcess,
    body: bytes,
    declared: int | None = None,
    extra: str = "",
    path: str = "/detect",
) -> socket.socket:
    """A request on its way, by hand."""
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    length = len(body) if declared is None else declared
    raw.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{extra}Content-Length: {length}\r\n\r\n".encode() + body)
    return raw


def assert_counts_from_the_first_byte(server: ServerProcess, body: bytes, path: str = "/detect") -> None:
    """Half of the client's 3 s are over when the last byte comes."""
    head = "X-Request-Timeout: 3\r\n"
    with (
        stopped_worker(server, marked(200)),
        opened(server, body[:-1], len(body), head, path) as raw,
    ):
        time.sleep(1.5)
        raw.sendall(body[-1:])
        sent = time.monotonic()
        assert raw.recv(4096).startswith(b"HTTP/1.1 504")
        assert time.monotonic() - sent < 2.9, "not from the last byte on, nor anew for each turn of tasks"


def with_timeout(seconds: str) -> dict[str, str]:
    return {"X-Request-Timeout": seconds}


@pytest.mark.parametrize("bad", ["0", "-1", "soon", "1e3", "nan", "inf", "", "1,5", "0x10", "1 s", "\u0663"])
def test_a_timeout_that_is_no_number_of_seconds_is_400(server: ServerProcess, bad: str) -> None:
    headers = {b"X-Request-Timeout": bad.encode()}
    answer = server.client.post("/detect", content=marked(1), headers=headers)
    assert "X-Request-Timeout" in assert_problem(answer, 400, "bad-timeout")["detail"]


def test_a_generous_timeout_is_capped_and_answered(server: ServerProcess) -> None:
    for good in ("30", "30.5", "060.", "999999999"):
        answer = server.client.post("/detect", content=marked(50), headers=with_timeout(good))
        assert answer.status_code == 200


def test_past_the_clients_own_deadline_504_and_never_executed(server: ServerProcess) -> None:
    with stopped_worker(server, marked(200)):
        answer = server.client.post("/detect", content=marked(51), headers=with_timeout("1.5"))
        problem = assert_problem(answer, 504, "deadline-exceeded")
        assert "limit 1.5 s" in problem["detail"]
    assert server.client.post("/detect", content=marked(52)).status_code == 200
    assert [51] not in executed(server) and executed(server)[-1] == [52]


def test_the_time_that_a_body_takes_counts(server: ServerProcess) -> None:
    body = marked(53)
    start = time.monotonic()
    with opened(server, body[:-1], len(body), "X-Request-Timeout: 1\r\n") as raw:
        assert raw.recv(4096).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - start < 30, "the server's own limit is 100 s"
    assert_counts_from_the_first_byte(server, body)
    assert not [batch for batch in executed(server) if 53 in batch]


def test_the_time_that_a_client_gives_is_that_of_all_label_studio_tasks(server: ServerProcess) -> None:
    image = f"data:image/png;base64,{base64.b64encode(marked(58)).decode()}"
    config = '<View><Image name="i" value="$image"/><RectangleLabels name="l" toName="i"/></View>'
    tasks = [{"id": 1, "data": {"image": image}}]
    body = json.dumps({"tasks": tasks, "label_config": config}).encode()
    assert_counts_from_the_first_byte(server, body, "/label-studio/predict")
    assert not [batch for batch in executed(server) if 58 in batch]


def test_who_leaves_while_sending_is_noticed(server: ServerProcess) -> None:
    before = server.left()
    raws = [opened(server, marked(54)[:-1], len(marked(54))) for _ in range(3)]
    for raw in raws:
        raw.close()
    wait_until(lambda: server.left() == before + 3, "three clients to be missed")


def test_who_leaves_while_waiting_for_a_decoder_is_never_decoded(server: ServerProcess) -> None:
    slow = encode(np.zeros((5000, 8000, 3), np.uint8))
    before, gone = server.left(), dropped(server, "disconnected")
    with ThreadPoolExecutor(4) as pool:
        large = [pool.submit(httpx.post, f"{server.url}/detect", content=slow, timeout=90) for _ in range(4)]
        wait_until(lambda: server.metric("hindsight_queue_depth") >= 3, "the large ones to be there")
        raws = [opened(server, marked(55)) for _ in range(5)]
        wait_until(lambda: server.metric("hindsight_queue_depth") >= 5, "the small ones to be there")
        for raw in raws:
            raw.close()
        wait_until(lambda: server.left() == before + 5, "five clients to be missed")
        assert dropped(server, "disconnected") == gone + 5
        assert [each.result().status_code for each in large] == [200] * 4
    assert not [batch for batch in executed(server) if 55 in batch]


def test_who_leaves_the_queue_is_never_executed(server: ServerProcess) -> None:
    with stopped_worker(server, marked(200)):
        raws = [opened(server, marked(56)) for _ in range(5)]
        wait_until(lambda: server.metric("hindsight_queue_depth") == 5, "five to wait")
        for raw in raws:
            raw.close()
        wait_until(lambda: server.metric("hindsight_queue_depth") == 0, "five to leave")
    assert server.client.post("/detect", content=marked(57)).status_code == 200
    assert not [batch for batch in executed(server) if 56 in batch]


def test_nothing_is_held_when_all_is_over(server: ServerProcess) -> None:
    wait_until(lambda: server.metric("hindsight_image_memory_bytes") == 0, "all memory to be given back")
    assert server.metric("hindsight_queue_depth") == 0
    assert [record for record in server.log() if record["level"] == "error"] == []
