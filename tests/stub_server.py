"""A server that answers by script, through real sockets, and both clients behind one face to try on it."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import hindsight

TINY = {
    "name": "tiny",
    "version": "2",
    "classes": [{"name": "red"}, {"name": "green"}],
    "has_localization": True,
    "has_masks": False,
    "versions": [{"version": "1", "classes": ["cat", "dog"]}, {"version": "0", "classes": None}],
}
MODELS = {"models": [TINY], "default": "tiny"}
ROW = {"box": [1.0, 2.0, 3.0, 4.0], "label": "green", "label_id": 1, "score": 0.5, "class_score": 0.6}
JUDGED = {**ROW, "iou": 0.7, "purity": 0.8, "integrity": 0.9}
FOUND = {"model": "tiny", "version": "2", "image": {"width": 160, "height": 96}, "detections": [JUDGED]}
BUSY = {"title": "Busy", "detail": "the queue is full", "code": "service-error", "status": 503}


@dataclass(frozen=True)
class Seen:
    """A request as it came. connection: which one, from 1. at: time.monotonic seconds."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int
    at: float


Step = Callable[["StubServer", socket.socket, Seen], bool]
"""What becomes of one request; -> whether its connection is kept."""


class StubServer:
    """Each request but /models takes a step of `script`; where that is empty, `always`."""

    def __init__(self, port: int = 0) -> None:
        self.script: deque[Step] = deque()
        self.always: Step = says(FOUND)
        self.models: Any = MODELS
        self.listing: Step | None = None  # instead of those models
        self.seen: list[Seen] = []
        self.connections = 0
        self.left = threading.Event()  # a client has closed its connection without waiting for its answer
        self.together = self.most_together = 0  # requests under way
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @property
    def asked(self) -> list[Seen]:
        """The requests less those for /models."""
        return [seen for seen in self.seen if not seen.target.endswith("/models")]

    def close(self) -> None:
        self.stop_listening()
        self.drop_connections()
        for thread in [self._accepting, *self._threads]:
            thread.join(10)

    def stop_listening(self) -> None:
        """New connections are refused from now on."""
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # done before
        self._listener.close()
        self._accepting.join(10)

    def drop_connections(self) -> None:
        """As a server does with connections that were idle for too long."""
        with self._lock:
            for connection in self._open:
                with suppress(OSError):  # gone already
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(connection)
                self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection, self.connections))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        stream = connection.makefile("rb")
        try:
            while (seen := _request(stream, number)) is not None:
                with self._lock:
                    self.seen.append(seen)
                    self.together += 1
                    self.most_together = max(self.most_together, self.together)
                    listing = seen.target.endswith("/models")
                    step = (
                        self.listing or says(self.models)
                        if listing
                        else self.script.popleft()
                        if self.script
                        else self.always
                    )
                try:
                    kept = step(self, connection, seen)
                finally:
                    with self._lock:
                        self.together -= 1
                if not kept:
                    return
        except OSError:
            pass  # the client is gone
        finally:
            stream.close()
            with self._lock:
                self._open.discard(connection)
            connection.close()


def _request(stream: Any, number: int) -> Seen | None:
    line = stream.readline().decode("latin-1").split()
    if not line:
        return None
    headers: dict[str, str] = {}
    while header := stream.readline().decode("latin-1").strip():
        name, _, value = header.partition(":")
        headers[name.lower()] = value.strip()
    body = stream.read(int(headers.get("content-length", 0)))
    return Seen(line[0], line[1], headers, body, number, time.monotonic())


def says(document: Any, status: int = 200, **headers: str) -> Step:
    """An answer. headers: underscores for dashes."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status} Words", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]

    def step(server: StubServer, connection: socket.socket, seen: Seen) -> bool:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        return True

    return step


def resets(server: StubServer, connection: socket.socket, seen: Seen) -> bool:
    """The connection breaks before a byte of the answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def cuts(server: StubServer, connection: socket.socket, seen: Seen) -> bool:
    """The connection ends within the answer."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
    return False


def stays_silent(server: StubServer, connection: socket.socket, seen: Seen) -> bool:
    """No answer comes; when the client gives up, `left` is set."""
    with suppress(OSError):  # reset: gone too
        connection.recv(1)
    server.left.set()
    return False


@contextmanager
def stub_server() -> Iterator[StubServer]:
    server = StubServer()
    try:
        yield server
    finally:
        server.close()


class Driven:
    """AsyncClient with the methods of Client, each call run to its end on one event loop."""

    def __init__(self, url: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = hindsight.AsyncClient(url, **options)

    def detect(self, *arguments: Any, **options: Any) -> hindsight.Detections:
        return self._runner.run(self._client.detect(*arguments, **options))

    def detect_many(self, *arguments: Any, **options: Any) -> Iterator[Any]:
        async def collect() -> list[Any]:
            return [outcome async for outcome in self._client.detect_many(*arguments, **options)]

        return iter(self._runner.run(collect()))

    def rescore(self, *arguments: Any, **options: Any) -> hindsight.Rescored:
        return self._runner.run(self._client.rescore(*arguments, **options))

    def models(self) -> list[dict[str, Any]]:
        return self._runner.run(self._client.models())

    def default_model(self) -> str:
        return self._runner.run(self._client.default_model())

    def close(self) -> None:
        self._runner.run(self._client.close())
        self._runner.close()
