"""How the server behaves as HTTP: methods, paths, parameters, headers, connections, its own description."""

from __future__ import annotations

import socket
from typing import Any

import httpx
import pytest

from tests.server_process import TILES, ServerProcess, assert_finds_tiles, assert_problem, wait_until


def test_raw_path_traversal_reaches_nothing(server: ServerProcess) -> None:
    targets = (
        b"/models/tiny/samples/../../manifest.json",
        b"/page/../settings.py",
        b"/page/%2e%2e/settings.py",
    )
    for target in targets:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
            raw.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert raw.makefile("rb").read().startswith(b"HTTP/1.1 404"), target


def test_unknown_paths_and_methods_are_problems(client: httpx.Client) -> None:
    assert_problem(client.get("/nothing"), 404, "not-found")
    answer = client.get("/detect")
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"
    assert_problem(client.post("/detect/", content=TILES), 404, "not-found")


def test_head_answers_as_get_without_a_body(client: httpx.Client) -> None:
    for path in ("/", "/healthz", "/readyz", "/models", "/models/tiny/samples/tiles.jpg", "/page/page.js"):
        plain = {"accept-encoding": "identity"}  # the length is that of what is sent, packed or not
        got, asked = client.get(path, headers=plain), client.head(path, headers=plain)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-length"] == str(len(got.content))
        assert asked.headers["content-type"] == got.headers["content-type"]
    refused = assert_problem(client.get("/detect"), 405, "method-not-allowed")
    assert refused["detail"] == "GET is not allowed at /detect; it takes POST"
    assert client.head("/detect").status_code == 405


def test_a_parameter_given_twice_is_refused_rather_than_half_ignored(client: httpx.Client) -> None:
    for path in ("/detect?score_threshold=0.1&score_threshold=0.9", "/detect?model=none&model=tiny"):
        problem = assert_problem(client.post(path, content=TILES), 422, "bad-option")
        assert "given 2 times" in problem["detail"]
    repeated = client.post("/detect?classes=red&classes=green", content=TILES)
    assert_finds_tiles(repeated.json())


def test_only_parameters_of_the_route_are_suggested(client: httpx.Client) -> None:
    form: dict[str, Any] = {"files": {"image": ("a", TILES)}, "data": {"boxes": "[]"}}
    answer = client.post("/rescore", params={"score_threshold": "0.5"}, **form)
    assert "did you mean" not in assert_problem(answer, 422, "invalid-request")["detail"]


def test_the_documented_problems_are_the_real_ones(client: httpx.Client) -> None:
    responses = client.get("/openapi.json").json()["paths"]["/detect"]["post"]["responses"]
    example = responses["422"]["content"]["application/problem+json"]["example"]
    real = assert_problem(client.post("/detect?nonsense=1", content=TILES), 422, "invalid-request")
    assert {key: real[key] for key in ("type", "title", "status", "code")} == {
        key: example[key] for key in ("type", "title", "status", "code")
    }
    busy = responses["503"]["content"]["application/problem+json"]["example"]
    assert (busy["type"], busy["code"]) == ("/docs#busy", "service-error")


def test_page_docs_and_openapi_come_from_this_server_alone(client: httpx.Client) -> None:
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'self'; img-src 'self' blob: data:" in page.headers["content-security-policy"]
    assert "<script" not in client.get("/docs").text and "//" not in client.get("/docs").text.replace(
        "<!--", ""
    )
    assert client.get("/docs.css").headers["content-type"].startswith("text/css")
    assert client.get("/page/page.js").status_code == 200
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) >= {"/detect", "/rescore", "/models", "/healthz", "/readyz", "/metrics"}
    assert "application/problem+json" in document["paths"]["/detect"]["post"]["responses"]["422"]["content"]


def test_request_ids_and_no_cors(server: ServerProcess, client: httpx.Client) -> None:
    answer = client.get("/healthz", headers={"x-request-id": "mine-1", "origin": "http://elsewhere"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert not [name for name in answer.headers if name.startswith("access-control")]
    forged = client.get("/healthz", headers={"x-request-id": 'x" onload="y'}).headers["x-request-id"]
    assert forged != 'x" onload="y' and len(forged) == 32
    posted = client.post("/detect", content=TILES, headers={"x-request-id": "mine-2"})
    assert "model;dur=" in posted.headers["server-timing"]

    def logged() -> list[dict[str, Any]]:
        return [each for each in server.log("request") if each["request_id"] == "mine-2"]

    wait_until(lambda: bool(logged()), "the log line, which is written after the answer")
    [record] = logged()
    assert record["status"] == 200 and record["stages_ms"]["decode"] > 0


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST /detect HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nhalf a body",
    ],
)
def test_garbage_on_the_socket_is_survived(server: ServerProcess, garbage: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(garbage)
        raw.shutdown(socket.SHUT_WR)
        answer = raw.makefile("rb").read()
    assert not answer.startswith(b"HTTP/1.1 2")


def test_a_connection_lives_on_after_its_body_was_refused(server: ServerProcess) -> None:
    size = 50_000_001
    with (
        socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw,
        raw.makefile("rb") as answers,
    ):
        raw.sendall(f"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
        assert b" 413 " in answers.readline()
        length = next(int(line[15:]) for line in answers if line.lower().startswith(b"content-length:"))
        while answers.readline() != b"\r\n":
            pass
        answers.read(length)
        raw.sendall(bytes(size))  # a client that did not wait for the answer
        raw.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in answers.readline()
