"""A server whose latencies are known: for measuring the tool that measures."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hindsight.bench.requests import Request
from hindsight.bench.wire import Address


@dataclass
class Reply:
    """What a request is answered, after `seconds`. `status` 0: the connection is closed instead."""

    seconds: float = 0.0
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


@dataclass
class FakeServer:
    """HTTP/1.1 on 127.0.0.1, kept alive. `plan`: the replies, one a request. `one_at_a_time`: requests queue
    for a single worker, and those whose client has left are worked on nevertheless, as a naive server does.
    """

    plan: Iterator[Reply]
    one_at_a_time: bool = False
    close_after: int = 0
    """Answers after which a connection is closed; 0: never."""
    port: int = 0
    connections: int = 0
    arrivals: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    left: int = 0
    """Clients that were gone when their answer was due."""

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port, "127.0.0.1")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakeServer]:
        self._worker = asyncio.Lock()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def __post_init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            for answered in itertools.count(1):
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                self.bodies.append(await reader.readexactly(length))
                self.heads.append(head)
                self.arrivals.append(asyncio.get_running_loop().time())
                reply = next(self.plan)
                async with self._worker if self.one_at_a_time else contextlib.nullcontext():
                    await asyncio.sleep(reply.seconds)
                if reply.status == 0:
                    return
                if reader.at_eof() or writer.is_closing():
                    self.left += 1
                    return
                writer.write(_encoded(reply))
                await writer.drain()
                if answered == self.close_after:
                    return
        except (asyncio.IncompleteReadError, ConnectionError, StopIteration):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


def _encoded(reply: Reply) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} x", f"Content-Length: {len(reply.body)}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + reply.body


def always(seconds: float = 0.0, status: int = 200, **headers: str) -> Iterator[Reply]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return itertools.repeat(Reply(seconds, status, named))


def problem(slug: str, status: int = 503, **headers: str) -> Reply:
    """A problem document as Hindsight writes it."""
    body = json.dumps({"type": f"/docs#{slug}", "status": status, "detail": "so it is"}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(0.0, status, {"Content-Type": "application/problem+json", **named}, body)


def small_request(kind: str = "detect", **more: object) -> Request:
    head = b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    return Request((head, b"body"), kind=kind, **more)  # type: ignore[arg-type]  # fields of Request


def the_same(request: Request) -> Callable[[], Request]:
    return lambda: request
