"""What the clients do when a server is busy, silent, or gone in the middle: which requests are sent again,
when, and for how long.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

import hindsight
from hindsight.client import retry
from hindsight.errors import ServiceError
from tests.stub_server import BUSY, FOUND, StubServer, cuts, resets, says, stays_silent

REPOSITORY = Path(__file__).resolve().parents[3]
SOON = 20.0  # seconds: an upper bound for what takes no time, on a machine that does other things too
Make = Callable[..., Any]


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_given_the_time_it_asks_for(server: StubServer, make: Make, status: int) -> None:
    server.script.append(says(BUSY, status, Retry_After="1"))
    assert len(make().detect(b"image")) == 1
    first, second = server.asked
    assert second.at - first.at >= 1
    assert second.body == first.body == b"image"


def test_a_date_to_come_back_at_is_kept_to(server: StubServer, make: Make) -> None:
    date = datetime.now(UTC) + timedelta(seconds=2)
    server.script.append(says(BUSY, 503, Retry_After=format_datetime(date, usegmt=True)))
    make().detect(b"image")
    assert datetime.now(UTC) >= date.replace(microsecond=0)


def test_after_so_many_tries_the_servers_last_word_is_raised(server: StubServer, make: Make) -> None:
    server.always = says(BUSY, 503)
    with pytest.raises(ServiceError, match="the queue is full") as raised:
        make(retries=2).detect(b"image")
    assert raised.value.status == 503
    assert len(server.asked) == 3


def test_a_wait_past_the_calls_time_is_not_begun(server: StubServer, make: Make) -> None:
    server.always = says(BUSY, 503, Retry_After="300")
    began = time.monotonic()
    with pytest.raises(ServiceError) as raised:
        make(timeout=100).detect(b"image")
    assert time.monotonic() - began < SOON
    assert raised.value.retry_after == 300 and len(server.asked) == 1


@pytest.mark.parametrize("trouble", [resets, cuts])
def test_a_connection_that_breaks_is_tried_again(server: StubServer, make: Make, trouble: Any) -> None:
    server.script += [trouble, trouble]
    assert len(make().detect(b"image")) == 1
    assert len(server.asked) == 3


@pytest.mark.parametrize("trouble", [resets, cuts])
def test_a_connection_that_keeps_breaking_is_an_error(server: StubServer, make: Make, trouble: Any) -> None:
    server.always = trouble
    with pytest.raises(ServiceError, match=r"no answer from http://127.0.0.1:\d+ \(.+\)") as raised:
        make(retries=1).detect(b"image")
    assert raised.value.status is None and len(server.asked) == 2


def test_all_that_the_clients_ask_for_may_be_asked_twice(server: StubServer, make: Make) -> None:
    client = make()
    server.script += [resets, says({**FOUND, "results": []})]
    assert len(client.rescore(b"image", [])) == 0
    assert [seen.target for seen in server.asked] == ["/rescore", "/rescore"]


@pytest.mark.parametrize("status", [400, 404, 408, 413, 422, 500, 504])
def test_what_would_be_answered_the_same_is_not_asked_again(
    server: StubServer, make: Make, status: int
) -> None:
    server.always = says({**BUSY, "status": status}, status, Retry_After="1")
    with pytest.raises(ServiceError):
        make().detect(b"image")
    assert len(server.asked) == 1


def test_a_server_that_starts_meanwhile_is_found(make: Make, server: StubServer) -> None:
    """As while it is replaced: the first tries are refused."""
    client = make(retries=10)
    with ThreadPoolExecutor(1) as pool:
        server.stop_listening()
        answer = pool.submit(client.detect, b"image")
        time.sleep(0.3)
        later = StubServer(server.port)
        try:
            assert len(answer.result(SOON)) == 1
        finally:
            later.close()


def test_https_to_a_server_without_it_is_told_the_right_address(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(SOON)
        refused = threading.Thread(target=refuses_once, args=(plain,))
        refused.start()
        address = f"127.0.0.1:{plain.getsockname()[1]}/prefix"
        with pytest.raises(ServiceError) as raised:
            make(f"https://{address}").detect(b"bytes")
        refused.join()
    assert str(raised.value) == (
        f"no answer from https://{address} (what listens there does not speak TLS): try http://{address}"
    )


def refuses_once(listener: socket.socket) -> None:
    """As a server without TLS does with what is no HTTP; after it nobody listens."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def test_silence_ends_with_the_calls_time_and_the_connection(server: StubServer, make: Make) -> None:
    server.always = stays_silent
    began = time.monotonic()
    with pytest.raises(ServiceError, match=r"within 0\.5 s"):
        make(timeout=0.5).detect(b"image")
    assert 0.5 <= time.monotonic() - began < SOON
    assert server.left.wait(SOON)
    assert len(server.asked) == 1


def test_the_calls_time_is_for_all_that_it_asks(server: StubServer, make: Make) -> None:
    """An answer of a model that is not known yet is followed by a look at /models: that is no second call."""
    server.script.append(says(BUSY, 503, Retry_After="1"))
    server.listing = says(BUSY, 503, Retry_After="8")
    with pytest.raises(ServiceError, match="the queue is full") as raised:
        make(timeout=9).detect(b"image")
    assert raised.value.retry_after == 8
    assert [seen.target for seen in server.seen] == ["/detect", "/detect", "/models"]


def test_the_server_is_told_how_long_its_answer_is_of_use(server: StubServer, make: Make) -> None:
    server.script.append(says(BUSY, 503, Retry_After="1"))
    make(timeout=15).detect(b"image")
    first, second = (float(seen.headers["x-request-timeout"]) for seen in server.asked)
    assert 12 < first < 15
    assert second < first - 0.8


def test_connections_are_kept(server: StubServer, make: Make) -> None:
    client = make()
    for _ in range(5):
        client.detect(b"image")
    client.models()
    assert server.connections == 1


def test_a_kept_connection_that_was_closed_costs_no_try(server: StubServer, make: Make) -> None:
    client = make(retries=0)
    client.detect(b"image")
    server.drop_connections()
    client.detect(b"image")
    server.script.append(resets)  # and one that breaks just as it is used again
    client.detect(b"image")
    assert server.connections == 3


def test_a_server_that_closes_each_connection_is_fine(server: StubServer, make: Make) -> None:
    server.always = says(FOUND, Connection="close")
    client = make(retries=0)
    for _ in range(3):
        assert len(client.detect(b"image")) == 1


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next(server: StubServer, make: Make) -> None:
    def twice(server: StubServer, connection: Any, seen: Any) -> bool:
        answers = [b"HTTP/1.1 %d OK\r\nContent-Length: 2\r\n\r\n{}" % status for status in (404, 200)]
        connection.sendall(b"".join(answers))
        return True

    server.script.append(twice)
    client = make(retries=0)
    with pytest.raises(ServiceError):
        client.detect(b"image")
    for _ in range(3):
        assert len(client.detect(b"image")) == 1
    assert server.connections == 2


def test_a_refusal_is_heard_while_the_body_is_still_being_sent(server: StubServer, make: Make) -> None:
    """A server that refuses by the length alone reads no further."""
    large = b"x" * 30_000_000

    def early() -> None:
        connection, _ = listener.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 413 No\r\nContent-Length: 22\r\nConnection: close\r\n\r\n")
        connection.sendall(b'{"detail":"too large"}')
        finished.wait(SOON)
        connection.close()

    finished = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=early)
        thread.start()
        server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            with pytest.raises(ServiceError, match="too large"):
                make(retries=0).detect(large)
        finally:
            finished.set()
            thread.join()


def test_threads_share_a_client(server: StubServer) -> None:
    with hindsight.Client(server.url) as client, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: client.detect(b"image"), range(40)))
    assert [len(each) for each in found] == [1] * 40
    assert 1 <= server.connections <= 8


def test_a_closed_client_says_so(server: StubServer) -> None:
    client = hindsight.Client(server.url)
    client.detect(b"image")
    client.close()
    client.close()
    with pytest.raises(RuntimeError, match="closed"):
        client.detect(b"image")


def test_closing_ends_what_other_threads_wait_for(server: StubServer) -> None:
    server.always = stays_silent
    client = hindsight.Client(server.url)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.detect, b"image")
        while not server.asked:
            time.sleep(0.01)
        client.close()
        with pytest.raises(RuntimeError, match="closed by another thread"):
            waiting.result(SOON)
    assert server.left.wait(SOON)


def test_a_client_that_nobody_closes_leaves_nothing_behind(server: StubServer) -> None:
    before = set(threading.enumerate())
    hindsight.Client(server.url).detect(b"image")
    gc.collect()
    assert {thread for thread in threading.enumerate() if thread.name == "hindsight-client"} <= before


def test_a_cancelled_task_closes_its_connection(server: StubServer) -> None:
    server.always = stays_silent

    async def leave() -> None:
        async with hindsight.AsyncClient(server.url) as client:
            task = asyncio.create_task(client.detect(b"image"))
            while not server.asked:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.left.wait, SOON)

    asyncio.run(leave())


def test_an_async_client_belongs_to_one_event_loop(server: StubServer) -> None:
    client = hindsight.AsyncClient(server.url)

    async def once() -> None:
        await client.detect(b"image")
        client._core.close()
        await asyncio.sleep(0.01)

    asyncio.run(once())
    with pytest.raises(RuntimeError, match="another event loop"):
        asyncio.run(once())


@pytest.mark.parametrize("call", ["detect(b'image')", "detect_many([b'image'] * 3)"])
def test_ctrl_c_closes_the_connection_at_once(server: StubServer, call: str) -> None:
    server.always = stays_silent
    code = f"import hindsight\nprint(list(hindsight.Client({server.url!r}).{call}))"
    program = subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.PIPE)
    try:
        while not server.asked:
            assert program.poll() is None
            time.sleep(0.02)
        program.send_signal(signal.SIGINT)
        assert server.left.wait(SOON)
        _, said = program.communicate(timeout=SOON)
    finally:
        program.kill()
        program.communicate()
    assert b"KeyboardInterrupt" in said


def test_a_fork_has_connections_of_its_own(server: StubServer) -> None:
    code = (
        "import os, sys, hindsight\n"
        f"client = hindsight.Client({server.url!r})\n"
        "client.detect(b'parent')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    client.detect(b'child')\n"
        "    os._exit(0)\n"
        "_, status = os.waitpid(child, 0)\n"
        "client.detect(b'parent')\n"
        "sys.exit(os.waitstatus_to_exitcode(status))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, timeout=60, check=False)
    assert done.returncode == 0
    who = {(seen.body, seen.connection) for seen in server.asked}
    assert who == {(b"parent", 1), (b"child", 2)}


def test_a_fork_does_not_keep_its_parents_connection_open(server: StubServer) -> None:
    """A process that was forked off while a request was under way has a copy of its socket."""
    code = """
import os, sys, threading, time
import hindsight

client = hindsight.Client(sys.argv[1], retries=0)
def ask():
    try:
        client.detect(b"image")
    except RuntimeError:
        pass  # closed
asking = threading.Thread(target=ask)
asking.start()
sys.stdin.readline()
child = os.fork()
if child == 0:
    sys.stdin.readline()
    os._exit(0)
client.close()
asking.join()
print("closed", flush=True)
os.waitpid(child, 0)
"""
    server.always = stays_silent
    process = subprocess.Popen(
        [sys.executable, "-c", code, server.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    )
    with process:
        assert process.stdin is not None and process.stdout is not None
        try:
            deadline = time.monotonic() + 3 * SOON
            while not server.asked:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"closed\n"
            assert server.left.wait(SOON)
        finally:
            process.stdin.close()  # the child ends
            process.wait(SOON)
    assert process.returncode == 0


def test_waits_grow_and_are_never_shorter_than_asked_for() -> None:
    for _ in range(50):
        assert 0.125 <= retry.pause(1, None) <= 0.25
        assert 1 <= retry.pause(4, None) <= 2
        assert 4 <= retry.pause(30, None) <= 8
        assert 3 <= retry.pause(1, 3.0) <= 3.3
    assert retry.pause(1, 0.0) > 0  # never in a tight loop


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("-1", None),
    ],
)
def test_retry_after_is_read_in_both_its_forms(text: str, seconds: float | None) -> None:
    assert retry.retry_after({"retry-after": text}) == seconds
    assert retry.retry_after({}) is None
