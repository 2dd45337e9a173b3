"""A client that says exactly the bytes it is given, and reads answers as HTTP frames them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

WAIT_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """One HTTP answer. headers: by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    def problem(self) -> dict[str, Any]:
        """Its problem document; AssertionError where it is none."""
        assert self.headers.get("content-type") == "application/problem+json", (self.headers, self.body[:200])
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        assert document["detail"] and "\n" not in document["detail"]
        assert document["request_id"] == self.headers["x-request-id"]
        return document


class Wire:
    """One connection."""

    def __init__(self, port: int, *, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(WAIT_SECONDS)
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self._reader = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def try_send(self, data: bytes) -> bool:
        """False where the server has closed."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def half_close(self) -> None:
        """No more is sent; answers can still come."""
        self.socket.shutdown(socket.SHUT_WR)

    def answer(self, *, head: bool = False) -> Answer | None:
        """The next answer; None at the connection's end. head: to a HEAD request, so without its body."""
        try:
            status_line = self._reader.readline()
        except ConnectionResetError:
            return None
        if not status_line:
            return None
        assert status_line.startswith(b"HTTP/1.1 "), status_line
        status = int(status_line.split()[1])
        headers: dict[str, str] = {}
        while (line := self._reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if status == 100 or head:
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            return Answer(status, headers, b"".join(self._chunks()))
        return Answer(status, headers, self._reader.read(int(headers["content-length"])))

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self._reader.readline(), 16):
            yield self._reader.read(size)
            self._reader.readline()
        self._reader.readline()

    def at_end(self) -> bool:
        """The server has closed, with nothing more to say. Waits for it."""
        try:
            return self._reader.read(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._reader.close()
        self.socket.close()


@contextmanager
def connected(port: int, *, receive_buffer: int | None = None) -> Iterator[Wire]:
    wire = Wire(port, receive_buffer=receive_buffer)
    try:
        yield wire
    finally:
        wire.close()


def answers_to(port: int, data: bytes, *, half_close: bool = False) -> list[Answer]:
    """Send `data` on a connection of its own; -> all answers until the server closes."""
    found: list[Answer] = []
    with connected(port) as wire:
        wire.try_send(data)
        if half_close:
            wire.half_close()
        while (answer := wire.answer()) is not None:
            found.append(answer)
    return found


def request(
    method: str = "GET",
    target: str = "/healthz",
    headers: tuple[str, ...] = (),
    body: bytes = b"",
    *,
    version: str = "1.1",
) -> bytes:
    """A correct request (unless its parts are not), with Host and, for a body, Content-Length."""
    lines = [f"{method} {target} HTTP/{version}", "Host: x", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
