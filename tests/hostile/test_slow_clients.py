"""Clients that hold connections: slow, silent, many. The server has little patience, see conftest."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack

import httpx
import numpy as np
import pytest

from tests.factories import encode, make_tiny_artifact
from tests.hostile.conftest import CONNECTIONS, check_health
from tests.hostile.vitals import assert_unharmed, vitals_of
from tests.hostile.wire import WAIT_SECONDS, connected, request
from tests.server_process import TILES, ServerProcess, assert_finds_tiles, serving, wait_until

pytestmark = pytest.mark.usefixtures("strict_unharmed")

POST = "POST /detect HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize("drip", [b"a", b"X-A: b\r\n"])
def test_slow_loris_headers_are_408(strict_server: ServerProcess, drip: bytes) -> None:
    start = time.monotonic()
    with connected(strict_server.port) as wire:
        wire.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
        wire.socket.settimeout(0.1)
        while time.monotonic() - start < WAIT_SECONDS and wire.try_send(drip):
            try:
                wire.socket.recv(1, socket.MSG_PEEK)
                break  # it has answered
            except TimeoutError:
                pass
        wire.socket.settimeout(WAIT_SECONDS)
        answer = wire.answer()
    assert answer is not None and answer.problem()["type"] == "/docs#slow-request"
    assert time.monotonic() - start > 1.5


@pytest.mark.parametrize("first", [b"", b"\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_silence_and_empty_lines_buy_no_time(strict_server: ServerProcess, first: bytes) -> None:
    with connected(strict_server.port) as wire:
        wire.send(first)
        if first.strip():
            assert wire.answer() is not None
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end and wire.try_send(b"\r\n" if first == b"\r\n" else b""):
            wire.socket.settimeout(0.2)
            try:
                if not wire.socket.recv(1, socket.MSG_PEEK):
                    break
                wire.socket.settimeout(WAIT_SECONDS)
                last = wire.answer()
                assert last is not None and last.status == 408
                break
            except TimeoutError:
                pass
        assert time.monotonic() < end, "the connection lived on"


def test_a_body_that_does_not_come_is_408_and_closed(strict_server: ServerProcess) -> None:
    with connected(strict_server.port) as wire:
        wire.send(f"{POST}Content-Length: 1000\r\n\r\npart".encode())
        answer = wire.answer()
        assert answer is not None and answer.problem()["type"] == "/docs#body-timeout"
        assert answer.headers["connection"] == "close"
        assert wire.at_end()


def test_a_body_below_the_least_rate_is_408(server: ServerProcess, unharmed: None) -> None:
    """Of a server with the usual patience of a minute."""
    start = time.monotonic()
    with connected(server.port) as wire:
        wire.send(f"{POST}Content-Length: 100000\r\n\r\n".encode())
        wire.socket.settimeout(0.5)
        while wire.try_send(b"x"):
            try:
                wire.socket.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                pass
        wire.socket.settimeout(WAIT_SECONDS)
        answer = wire.answer()
    assert answer is not None and answer.status == 408
    assert 4.5 < time.monotonic() - start < 50


def test_the_rest_of_a_refused_body_is_not_read_for_ever(strict_server: ServerProcess) -> None:
    with connected(strict_server.port) as wire:
        wire.send(f"{POST}Content-Length: 1000000000000\r\n\r\n".encode())
        answer = wire.answer()
        assert answer is not None and answer.status == 413
        end = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < end and wire.try_send(b"x"):
            time.sleep(0.1)
        assert time.monotonic() < end, "the connection lived on"


def test_a_client_that_does_not_read_is_cut_off(strict_server: ServerProcess) -> None:
    noise = encode(np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), np.uint8))
    with connected(strict_server.port, receive_buffer=4096) as wire:
        wire.send(request("POST", "/detect?annotate=true", ("Accept: image/png",), noise))
        start = time.monotonic()
        assert wire.socket.recv(1, socket.MSG_PEEK) == b"H"  # more than the kernel buffers is to come
        counted = 'hindsight_refused_total{reason="slow_reader"}'
        wait_until(lambda: counted in strict_server.client.get("/metrics").text, "the cut to be counted")
    assert time.monotonic() - start > 2


def test_idle_connections_make_room_for_new_clients(strict_server: ServerProcess) -> None:
    with ExitStack() as stack:
        for _ in range(3 * CONNECTIONS):
            stack.enter_context(connected(strict_server.port))
        check_health(strict_server)
        assert strict_server.metric("hindsight_connections") <= CONNECTIONS


def test_a_flood_of_unfinished_requests_is_503_and_then_over(strict_server: ServerProcess) -> None:
    refused = 0
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(connected(strict_server.port)).send(
                f"{POST}Content-Length: 1000\r\n\r\n".encode()
            )
        for _ in range(5):
            with connected(strict_server.port) as wire:
                wire.try_send(request())
                answer = wire.answer()
                if answer is not None and answer.status == 503:
                    assert answer.problem()["type"] == "/docs#too-many-connections"
                    assert answer.headers["retry-after"] == "1"
                    refused += 1
    assert refused > 0
    wait_until(lambda: _answers(strict_server), "an answer, though nobody let go")


def test_many_quick_connections_leave_nothing(strict_server: ServerProcess) -> None:
    for index in range(500):
        with socket.create_connection(("127.0.0.1", strict_server.port), timeout=WAIT_SECONDS) as raw:
            raw.sendall(request()[: index % 40])


def test_one_address_has_its_own_limit(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("peers")
    model = make_tiny_artifact(folder / "tiny").path
    with (
        serving(folder, "--model", str(model), max_connections_per_peer=3) as server,
        ExitStack() as stack,
    ):
        check_health(server)
        before = vitals_of(server)
        held = [stack.enter_context(connected(server.port)) for _ in range(3)]
        for wire in held:
            wire.send(request())
            assert wire.answer() is not None
        with connected(server.port) as wire:
            answer = wire.answer()
            assert answer is not None and "one address" in answer.problem()["detail"]
            assert wire.at_end()
        source = ("127.0.0.2", 0)
        with socket.create_connection(("127.0.0.1", server.port), WAIT_SECONDS, source) as other:
            other.sendall(request(headers=("Connection: close",)))
            assert other.recv(4096).startswith(b"HTTP/1.1 200")
        stack.close()
        assert_unharmed(server, before)
        with httpx.Client(base_url=server.url, timeout=60) as client:
            assert_finds_tiles(client.post("/detect", content=TILES).json())


def test_a_stopping_server_does_not_wait_for_slow_clients(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("stopping")
    model = make_tiny_artifact(folder / "tiny").path
    with serving(folder, "--model", str(model)) as server, ExitStack() as stack:
        for data in (b"", b"GET / HT", request()):
            stack.enter_context(connected(server.port)).send(data)
        start = time.monotonic()
        assert server.close() == 0
        assert time.monotonic() - start < 25


def _answers(server: ServerProcess) -> bool:
    with connected(server.port) as wire:
        wire.try_send(request(headers=("Connection: close",)))
        answer = wire.answer()
    return answer is not None and answer.status == 200
