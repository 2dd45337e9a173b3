"""HTTP/1.1 connections that are kept: asyncio moves the bytes, h11 knows the protocol.

Nothing here follows a redirect, reads a proxy from the environment or sends a request twice, but for one
case: a kept connection that turns out to have been closed before a byte of the answer came.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import h11

from hindsight.errors import OptionError

__all__ = ["Address", "Answer", "Lost", "Pool", "Request"]

_CONNECT_SECONDS = 10.0
_MOST_IDLE = 16  # connections kept
_IDLE_SECONDS = 30.0  # longer, and something on the way may have forgotten the connection without a word
_MOST_BYTES = 2**28  # of an answer
# What OpenSSL says, by its version, where plain HTTP answers.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"})


@dataclass(frozen=True)
class Address:
    """Of a server. prefix: of all its paths, without a slash at its end. tls: None for plain HTTP."""

    url: str
    host: str
    port: int
    prefix: str
    tls: ssl.SSLContext | None = field(repr=False)

    @classmethod
    def of(cls, url: str, tls: ssl.SSLContext | None) -> Address:
        """tls: how to check a server with https; None as the system does. Raises OptionError."""
        try:
            parts = urlsplit(url)
            host, port = _ascii(parts.hostname or ""), parts.port
        except ValueError as error:
            raise OptionError(f"url {url!r} is not valid ({error})") from None
        extra = parts.query or parts.fragment or parts.username is not None
        plain = parts.path.isascii() and parts.path.isprintable() and " " not in parts.path
        plain = plain and host.isprintable() and " " not in host and port != 0
        if parts.scheme not in ("http", "https") or not host or extra or not plain:
            raise OptionError(f"url must look like http://localhost:8000, got {url!r}")
        if parts.scheme == "http":
            if tls is not None:
                raise OptionError(
                    f"tls is for https, and would do nothing for {url!r}: give https://, or no tls"
                )
            return cls(url, host, port or 80, parts.path.rstrip("/"), None)
        context = tls if tls is not None else ssl.create_default_context()
        return cls(url, host, port or 443, parts.path.rstrip("/"), context)

    @property
    def authority(self) -> str:
        """As in the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


@dataclass(frozen=True)
class Request:
    """headers: less Host and Content-Length."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """headers: by lower-case name."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Lost(Exception):
    """No whole answer came. passing: it may be different the next time. advice: what to look at."""

    def __init__(
        self, reason: str, *, passing: bool = True, advice: str = "is `hindsight serve` running there?"
    ) -> None:
        super().__init__(reason)
        self.passing = passing
        self.advice = advice


class Pool:
    """The connections to one server, for one event loop."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: list[_Connection] = []
        self._closed = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def exchange(self, request: Request) -> Answer:
        """Raises Lost. Whatever else ends it, a cancellation say, closes the connection at once: the server
        then drops the work.
        """
        self._check_loop()
        while True:
            kept = self._take()
            connection = kept if kept is not None else await self._open()
            try:
                answer = await connection.exchange(request, self._address)
            except Lost:
                connection.abort()
                if kept is None or connection.answering:
                    raise
                continue  # it was closed while nobody looked; in the end there is a new one
            except BaseException:
                connection.abort()
                raise
            self._keep(connection)
            return answer

    def close(self) -> None:
        """Keep no connection from now on."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    def _check_loop(self) -> None:
        running = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = running
        elif self._loop is not running:
            raise RuntimeError("this client belongs to another event loop: make one in each")

    def _take(self) -> _Connection | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()  # the one used last: the others may then grow old
            if connection.usable and now - connection.idle_since < _IDLE_SECONDS:
                return connection
            connection.abort()
        return None

    def _keep(self, connection: _Connection) -> None:
        if connection.usable and not self._closed and len(self._idle) < _MOST_IDLE:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.abort()

    async def _open(self) -> _Connection:
        address = self._address
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    _Connection, address.host, address.port, ssl=address.tls
                )
        except TimeoutError as error:
            raise Lost(f"no connection within {_CONNECT_SECONDS:g} s") from error
        except ssl.SSLCertVerificationError as error:
            raise Lost(f"its certificate cannot be trusted: {error.verify_message}", passing=False) from error
        except ssl.SSLError as error:
            if error.reason not in _NOT_TLS:
                raise Lost(_words(error)) from error
            plain = f"http{address.url[len('https') :]}"
            raise Lost(
                "what listens there does not speak TLS", passing=False, advice=f"try {plain}"
            ) from error
        except socket.gaierror as error:
            raise Lost(
                f"the name {address.host} leads nowhere: {error.strerror}",
                passing=error.errno == socket.EAI_AGAIN,
            ) from error
        except UnicodeError as error:
            raise Lost(f"{address.host} is no name of a host", passing=False) from error
        except OSError as error:
            raise Lost(_words(error)) from error
        return connection


class _Connection(asyncio.Protocol):
    """One request at a time. Bytes are parsed as they come, so an answer is seen even while the request is
    still being sent: a server may refuse a large body before it has all of it.
    """

    def __init__(self) -> None:
        self.idle_since = 0.0
        self.answering = False  # a byte of the current answer has come
        self._protocol = h11.Connection(h11.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._head: h11.Response | None = None
        self._body = bytearray()

    @property
    def usable(self) -> bool:
        """Whether another request could be sent."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and self._protocol.our_state is h11.IDLE

    async def exchange(self, request: Request, address: Address) -> Answer:
        """Raises Lost. To be aborted unless it returns."""
        transport = self._transport
        if transport is None:
            raise Lost("the connection was closed")
        self._answer = asyncio.get_running_loop().create_future()
        self.answering, self._head, self._body = False, None, bytearray()
        headers = [("Host", address.authority), *request.headers.items()]
        if request.method != "GET":
            headers.append(("Content-Length", str(len(request.body))))
        events: list[h11.Event] = [h11.Request(method=request.method, target=request.target, headers=headers)]
        if request.body:
            events.append(h11.Data(data=request.body))
        for event in (*events, h11.EndOfMessage()):
            data = self._protocol.send(event)
            if data:
                transport.write(data)
        try:
            answer = await self._answer
        finally:
            self._answer = None
        at_rest = self._protocol.their_state is h11.DONE and self._protocol.trailing_data == (b"", False)
        if at_rest and not transport.get_write_buffer_size():
            self._protocol.start_next_cycle()
        return answer

    def abort(self) -> None:
        """Close it now, unsent bytes or not."""
        if self._transport is not None:
            # Closing alone would leave it open for as long as a process that was forked off has a copy.
            with suppress(
                OSError, TypeError
            ):  # broken already; or a loop, such as uvloop, that has no such call
                self._transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
            self._transport.abort()
            self._transport = None

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:  # nobody asked
            self.abort()
            return
        self.answering = True
        self._receive(data)

    def eof_received(self) -> None:
        if self._answer is not None:
            self._receive(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(_words(exc) if exc is not None else "the connection was closed")

    def _receive(self, data: bytes) -> None:
        try:
            self._protocol.receive_data(data)
            self._advance()
        except h11.RemoteProtocolError as error:
            if data:
                self._fail(f"what it says is not HTTP: {error}")
            else:
                self._fail(
                    "the connection was closed " + ("within" if self.answering else "before") + " the answer"
                )

    def _advance(self) -> None:
        while True:
            event = self._protocol.next_event()
            if isinstance(event, h11.Response):
                self._head = event
            elif isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > _MOST_BYTES:
                    self._fail(f"an answer of more than {_MOST_BYTES} bytes")
                    return
            elif isinstance(event, h11.EndOfMessage):
                self._succeed()
                return
            elif not isinstance(event, h11.InformationalResponse):
                return  # more bytes are needed, or there will be none

    def _succeed(self) -> None:
        assert self._head is not None, "h11 ends no message that has not begun"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self._head.headers}
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._head.status_code, headers, bytes(self._body)))

    def _fail(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Lost(reason))


def _ascii(host: str) -> str:
    """As a name is asked for and stands in the Host header. Raises ValueError where it has no such form."""
    return host if host.isascii() else host.encode("idna").decode("ascii")


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
