"""One HTTP/1.1 connection of a client: a request's bytes out, the answer in, with the moments of both."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import httptools

__all__ = ["Address", "Answer", "BrokenExchange", "UntrustedServer", "Wire"]


@dataclass(frozen=True)
class Address:
    """Where to connect: `host` is an IP address; `name` what the server is called in Host and in its
    certificate.
    """

    host: str
    port: int
    name: str
    prefix: str = ""
    tls: ssl.SSLContext | None = None

    @property
    def authority(self) -> str:
        """The Host header."""
        name = f"[{self.name}]" if ":" in self.name else self.name
        return name if self.port == (443 if self.tls else 80) else f"{name}:{self.port}"


@dataclass(frozen=True)
class Answer:
    """`headers` by lower-case name; `done`: when its last byte came, by time.perf_counter."""

    status: int
    headers: dict[str, str]
    body: bytes
    done: float


class BrokenExchange(Exception):
    """No whole answer came. `unanswered`: not one byte of it did."""

    def __init__(self, reason: str, unanswered: bool = True) -> None:
        super().__init__(reason)
        self.unanswered = unanswered


class UntrustedServer(BrokenExchange):
    """Its certificate is of nobody that this machine believes."""


class Wire(asyncio.Protocol):
    """A connection that is kept alive. One exchange at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._waiting: asyncio.Future[Answer] | None = None
        self._status, self._headers, self._body = 0, dict[str, str](), list[bytes]()
        self._started = False
        self.exchanges = 0

    @classmethod
    async def connect(cls, address: Address, from_host: str | None = None) -> Wire:
        """from_host: an address of this machine, where another than the system's choice is wanted. Raises
        BrokenExchange where nobody listens.
        """
        loop = asyncio.get_running_loop()
        try:
            _, wire = await loop.create_connection(
                cls,
                address.host,
                address.port,
                ssl=address.tls,
                server_hostname=address.name if address.tls else None,
                local_addr=None if from_host is None else (from_host, 0),
            )
        except ssl.SSLCertVerificationError as error:
            raise UntrustedServer(
                f"the certificate of {address.name} is not trusted ({error.verify_message}): if it is yours, "
                "set SSL_CERT_FILE to it"
            ) from error
        except (OSError, ssl.SSLError) as error:
            raise BrokenExchange(f"no connection ({error.strerror or error})") from error
        return wire

    @property
    def usable(self) -> bool:
        """May another request be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: Sequence[bytes]) -> Answer:
        """Send and wait. Raises BrokenExchange. A caller that is cancelled leaves as a client does that gives
        up: the connection is closed.
        """
        if self._transport is None or self._transport.is_closing():
            raise BrokenExchange("the connection is closed")
        self._parser = httptools.HttpResponseParser(self)
        self._waiting = asyncio.get_running_loop().create_future()
        self._status, self._headers, self._body, self._started = 0, {}, [], False
        self.exchanges += 1
        try:
            self._transport.writelines(request)
            return await self._waiting
        except asyncio.CancelledError:
            self.abandon()
            raise
        finally:
            self._waiting = None

    def abandon(self) -> None:
        """Close at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        if self._parser is None or self._waiting is None:
            self.abandon()  # bytes that nobody asked for
            return
        self._started = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._break(f"no HTTP/1.1 answer ({error})")
            self.abandon()

    def eof_received(self) -> bool:
        return False  # close

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self._ends_with_the_connection:
            self._finish()
        self._break(f"the connection was lost ({error})" if error else "the server closed the connection")
        self._transport = None

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        self._status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._status == 100:  # "go on": the answer proper follows
            self._status, self._headers, self._body = 0, {}, []
            return
        self._finish()

    @property
    def _ends_with_the_connection(self) -> bool:
        """An answer of no stated length, whose head has come."""
        return self._status >= 200 and not {"content-length", "transfer-encoding"} & self._headers.keys()

    def _finish(self) -> None:
        assert self._parser is not None
        answer = Answer(self._status, self._headers, b"".join(self._body), time.perf_counter())
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)

    def _break(self, reason: str) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(BrokenExchange(reason, unanswered=not self._started))
