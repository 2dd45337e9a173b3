"""Requests that are wrong as HTTP: framing, targets, headers, methods, upgrades."""

from __future__ import annotations

import pytest

from tests.hostile.wire import Answer, answers_to, connected, request
from tests.server_process import TILES, ServerProcess, wait_until

pytestmark = pytest.mark.usefixtures("unharmed")

POST = "POST /detect HTTP/1.1\r\nHost: x\r\n"


def only_answer(server: ServerProcess, data: bytes) -> Answer:
    """The one answer, after which the server closes of itself."""
    [answer] = answers_to(server.port, data)
    return answer


@pytest.mark.parametrize(
    "head",
    [
        pytest.param("Content-Length: -5", id="negative length"),
        pytest.param("Content-Length: +5", id="signed length"),
        pytest.param("Content-Length: 0x5", id="hexadecimal length"),
        pytest.param("Content-Length: 5 5", id="length and more"),
        pytest.param("Content-Length: " + "9" * 30, id="length past 64 bits"),
        pytest.param("Content-Length: 5\r\nContent-Length: 6", id="two lengths"),
        pytest.param("Content-Length: 5\r\nTransfer-Encoding: chunked", id="length and chunked"),
        pytest.param("Transfer-Encoding: chunked\r\nContent-Length: 5", id="chunked and length"),
        pytest.param("Transfer-Encoding: xchunked", id="unknown coding"),
        pytest.param("Transfer-Encoding: chunked, identity", id="chunked is not last"),
        pytest.param("Transfer-Encoding : chunked", id="space before the colon"),
        pytest.param("Content-Length: 5\r\n Transfer-Encoding: chunked", id="folded header"),
        pytest.param("Content-Length: 5\nTransfer-Encoding: chunked", id="bare line feed"),
        pytest.param("X: a\rContent-Length: 5", id="bare carriage return"),
        pytest.param("X: a\0b", id="NUL in a header"),
        pytest.param("X\0: a", id="NUL in a header's name"),
        pytest.param("Hést: a", id="non-ASCII header name"),
        pytest.param(": a", id="header without a name"),
        pytest.param("no colon", id="header without a colon"),
        pytest.param("Host: y", id="two hosts"),
    ],
)
def test_ambiguous_framing_is_refused_and_ends_the_connection(server: ServerProcess, head: str) -> None:
    smuggled = b"0\r\n\r\n" + request(target="/models")
    data = f"{POST}{head}\r\n\r\n".encode("latin-1") + smuggled
    answer = only_answer(server, data)
    assert answer.status == 400 and answer.headers["connection"] == "close"
    assert answer.problem()["type"] == "/docs#malformed-request"


@pytest.mark.parametrize(
    "chunks",
    [
        b"ZZ\r\nx\r\n",
        b"-1\r\nx\r\n",
        b"ffffffffffffffffff\r\n",
        b"1\r\nxx\r\n",
        b"1 \r\nx\r\n",
        b"\r\n",
        b"1\nx\n",
    ],
)
def test_broken_chunks_are_refused(server: ServerProcess, chunks: bytes) -> None:
    data = f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks + b"0\r\n\r\n"
    assert only_answer(server, data).problem()["status"] == 400


def test_a_photo_in_chunks_of_one_byte_is_read(server: ServerProcess) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in TILES) + b"0\r\n\r\n"
    with connected(server.port) as wire:
        wire.send(f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode() + chunks)
        answer = wire.answer()
    assert answer is not None and answer.status == 200


def test_endless_chunk_extensions_are_cut(server: ServerProcess) -> None:
    with connected(server.port) as wire:
        wire.send(f"{POST}Transfer-Encoding: chunked\r\n\r\n1;".encode())
        sent = 0
        while sent < 50_000_000 and wire.try_send(b"a" * 65_536):
            sent += 65_536
        assert sent < 50_000_000, "the server listened to the end"
    wait_until(lambda: server.metric("hindsight_refused_total") > 0, "the refusal to be counted")


def test_endless_trailers_are_cut(server: ServerProcess) -> None:
    with connected(server.port) as wire:
        wire.send(f"{POST}Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n".encode())
        sent = 0
        while sent < 50_000_000 and wire.try_send(b"a: b\r\n" * 10_000):
            sent += 60_000
        assert sent < 50_000_000, "the server listened to the end"


def test_a_trailer_is_no_header_of_this_request_or_the_next(server: ServerProcess) -> None:
    chunked = f"{POST}Transfer-Encoding: chunked\r\n\r\n".encode()
    body = b"%x\r\n%b\r\n0\r\nX-Request-Id: forged\r\n\r\n" % (len(TILES), TILES)
    found = answers_to(server.port, chunked + body + request(headers=("Connection: close",)))
    assert [answer.status for answer in found] == [200, 200]
    assert "forged" not in [answer.headers["x-request-id"] for answer in found]


def test_a_length_too_short_leaves_the_rest_to_be_refused(server: ServerProcess) -> None:
    found = answers_to(server.port, f"{POST}Content-Length: 4\r\n\r\n".encode() + TILES)
    assert found[0].status in {415, 422}
    assert all(answer.status == 400 for answer in found[1:])


def test_a_length_too_long_with_a_half_close_ends_the_connection(server: ServerProcess) -> None:
    data = f"{POST}Content-Length: {len(TILES) + 1}\r\n\r\n".encode() + TILES
    assert answers_to(server.port, data, half_close=True) == []


def test_a_half_closed_client_has_left(server: ServerProcess) -> None:
    """Its images leave the queue, so nothing is computed that nobody reads."""
    found = answers_to(server.port, request("POST", "/detect", (), TILES), half_close=True)
    assert len(found) <= 1 and all(answer.status == 200 for answer in found)


def test_a_request_line_of_70_kb_is_414(server: ServerProcess) -> None:
    answer = only_answer(server, request(target="/" + "a" * 70_000))
    assert answer.status == 414 and answer.problem()["type"] == "/docs#target-too-long"
    answer = only_answer(server, request(target="/models?" + "a=b&" * 3000))
    assert answer.status == 414
    with connected(server.port) as wire:
        wire.send(request(target="/" + "a" * 8000))
        answer_to_shorter = wire.answer()
    assert answer_to_shorter is not None and answer_to_shorter.status == 404


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(tuple(f"X-{index}: a" for index in range(10_000)), id="10000 headers"),
        pytest.param(("X-Large: " + "a" * 1_000_000,), id="1 MB value"),
        pytest.param(("X" * 1_000_000 + ": a",), id="1 MB name"),
        pytest.param(tuple(f"X-{index}: {'a' * 5000}" for index in range(10)), id="50 kB in ten"),
    ],
)
def test_header_bombs_are_431(server: ServerProcess, headers: tuple[str, ...]) -> None:
    before = server.peak_kilobytes()
    answer = only_answer(server, request(headers=headers))
    assert answer.status == 431 and answer.problem()["type"] == "/docs#headers-too-large"
    assert server.peak_kilobytes() - before < 16 * 1024


def test_a_header_that_never_ends_is_cut(server: ServerProcess) -> None:
    with connected(server.port) as wire:
        wire.send(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        sent = 0
        while sent < 50_000_000 and wire.try_send(b"a" * 65_536):
            sent += 65_536
        assert sent < 50_000_000, "the server listened to the end"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://elsewhere/healthz", 200),
        ("http://elsewhere:99999/healthz", 400),
        ("//elsewhere/healthz", 404),
        ("*", 404),
        ("healthz", 400),
        ("/healthz#x", 200),
        ("/%00", 404),
        ("/page/%00.js", 404),
        ("/page/" + "a" * 5000, 404),
        ("/%ff%fe", 404),
        ("/%", 404),
        ("/models/tiny/samples/..%2f..%2fmanifest.json", 404),
        ("/models/..%2f..%2f..%2fetc%2fpasswd/samples/x", 404),
        ("/page/..%2fsettings.py", 404),
        ("/page/....//settings.py", 404),
        ("/page/%5c..%5csettings.py", 404),
        ("/h\xe9", 400),
        ("/a b", 400),
        ("/a\tb", 400),
        ("/a\0b", 400),
        ("/\x1b[31m", 400),
    ],
)
def test_odd_targets(server: ServerProcess, target: str, status: int) -> None:
    found = answers_to(server.port, request(target=target, headers=("Connection: close",)))
    assert [answer.status for answer in found] == [status]
    if status != 200:
        found[0].problem()


@pytest.mark.parametrize(
    ("method", "status"), [("FROB", 400), ("get", 400), ("CONNECT", 501), ("TRACE", 405), ("PROPFIND", 405)]
)
def test_odd_methods(server: ServerProcess, method: str, status: int) -> None:
    target = "elsewhere:443" if method == "CONNECT" else "/healthz"
    found = answers_to(server.port, request(method, target, ("Connection: close",)))
    assert [answer.status for answer in found] == [status]
    found[0].problem()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /healthz HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"GET /healthz\r\n\r\n",
        b"\0" * 1000,
        b"HTTP/1.1 200 OK\r\n\r\n",
    ],
)
def test_what_is_not_a_request_is_400(server: ServerProcess, data: bytes) -> None:
    assert only_answer(server, data).problem()["type"] == "/docs#malformed-request"


def test_http_1_0_is_answered_and_closed(server: ServerProcess) -> None:
    found = answers_to(server.port, b"GET /healthz HTTP/1.0\r\n\r\n")
    assert [answer.status for answer in found] == [200]


@pytest.mark.parametrize("upgrade", ["h2c", "websocket", "TLS/1.0", "nonsense"])
def test_an_upgrade_is_not_taken_up_and_the_body_is_read(server: ServerProcess, upgrade: str) -> None:
    """Some clients (Java's) ask for HTTP/2 with their first request, whatever its body."""
    headers = (f"Upgrade: {upgrade}", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk")
    with connected(server.port) as wire:
        for pieces in (1, 3):
            data = request("POST", "/detect", headers, TILES)
            step = -(-len(data) // pieces)
            for start in range(0, len(data), step):
                wire.send(data[start : start + step])
            answer = wire.answer()
            assert answer is not None and answer.status == 200
            assert b'"red"' in answer.body


def test_expect_100_continue_is_honoured_only_where_the_body_is_wanted(server: ServerProcess) -> None:
    with connected(server.port) as wire:
        head = f"{POST}Content-Length: {len(TILES)}\r\nExpect: 100-continue\r\n\r\n"
        wire.send(head.encode())
        interim = wire.answer()
        assert interim is not None and interim.status == 100
        wire.send(TILES)
        answer = wire.answer()
        assert answer is not None and answer.status == 200
        wire.send(head.replace("/detect", "/detect?nonsense=1").encode())
        refused = wire.answer()
        assert refused is not None and refused.status == 422


def test_pipelined_requests_are_answered_in_order(server: ServerProcess) -> None:
    several = request() + request("POST", "/detect", (), TILES) + request(target="/nothing")
    with connected(server.port) as wire:
        wire.send(several)
        found = [wire.answer() for _ in range(3)]
    assert [answer and answer.status for answer in found] == [200, 200, 404]
    assert found[1] is not None and b'"red"' in found[1].body


def test_ten_thousand_pipelined_requests_do_not_pile_up(server: ServerProcess) -> None:
    before = server.peak_kilobytes()
    found = answers_to(server.port, request() * 10_000)
    assert 1 <= len(found) < 10_000 and {answer.status for answer in found} == {200}
    assert server.peak_kilobytes() - before < 16 * 1024


def test_garbage_behind_a_request_does_not_replace_its_answer(server: ServerProcess) -> None:
    found = answers_to(server.port, request("POST", "/detect", (), TILES) + b"\0garbage\r\n\r\n")
    assert [answer.status for answer in found] == [200]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip", "identity, gzip"])
def test_compressed_bodies_are_refused_unread(server: ServerProcess, coding: str) -> None:
    """So a gzip bomb is never unpacked."""
    with connected(server.port) as wire:
        wire.send(request("POST", "/detect", (f"Content-Encoding: {coding}",), TILES))
        answer = wire.answer()
    assert answer is not None and answer.problem()["type"] == "/docs#unsupported-body"
