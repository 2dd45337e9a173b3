"""HTTP/1.1 as uvicorn speaks it, with limits: on headers, on time, on connections, on what follows a body.

uvicorn waits for ever for headers, for the rest of a body it has refused, and for a client to read; it keeps
headers of any size, and answers what it cannot read with plain text. `guarded_protocol` makes a class for
uvicorn.Config(http=...) that does none of this.
"""

import asyncio
import logging
from enum import Enum, auto
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.connections import Connections, Limits
from service.logs import log
from service.metrics import Metrics
from service.refusals import (
    LARGE_HEADERS,
    LONG_TARGET,
    MALFORMED,
    NOT_IMPLEMENTED,
    SLOW_HEADERS,
    TOO_MANY_CONNECTIONS,
    Refusal,
    refusal_bytes,
)

# What a body may cost beyond its content: chunk sizes, chunk extensions, trailers. A body in chunks of one
# byte has five bytes of framing to each.
_FRAMING_BYTES = 16 * 1024
_FRAMING_FACTOR = 8
_MAX_DROPPED_BYTES = 2**20  # read, and thrown away, of a client that goes on after it was refused


class _Phase(Enum):
    IDLE = auto()  # no byte of a (further) request has come
    HEAD = auto()
    BODY = auto()
    DEAF = auto()  # what comes is dropped; the connection ends when what is owed has been sent


def guarded_protocol(limits: Limits, metrics: Metrics) -> type[asyncio.Protocol]:
    """The protocol class of one server; its connections share one register."""
    connections = Connections(
        limits,
        on_refused=lambda reason: metrics.refused.labels(reason).inc(),
        on_change=metrics.connections.set,
    )

    class Bound(GuardedProtocol):
        register = connections

    return Bound


class GuardedProtocol(HttpToolsProtocol):
    """One connection. Use `guarded_protocol`."""

    register: ClassVar[Connections]

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.peer = ""
        self._limits = self.register.limits
        self._phase = _Phase.IDLE
        self._since = self.loop.time()  # when the phase began
        self._served = False  # a request has been answered on this connection
        self._taken = 0  # bytes of the current message, as far as it came alone
        self._body = 0  # of these, content
        self._headers_bytes = 0
        self._upgrade_asked = False
        self._lingering = False
        self._unsent, self._stalled_since = 0, 0.0

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        reason = self.register.admit(self)
        if reason is None:
            self.register.set_idle(self, True)
            return
        detail = "the server has as many connections as it may; retry in 1 s"
        if reason == "too_many_of_peer":
            detail = "you have as many connections as one address may; close some"
        self._refuse(Refusal(TOO_MANY_CONNECTIONS, reason, detail))

    def connection_lost(self, exc: Exception | None) -> None:
        self.register.forget(self)
        super().connection_lost(exc)

    def close_idle(self) -> None:
        self.transport.close()

    def sweep(self, now: float) -> None:
        limits, waited = self._limits, now - self._since
        if self._stalled(now):
            self.register.refused("slow_reader", self.peer, None)
            self.transport.abort()
        elif self._lingering:
            if waited > limits.linger:
                self.transport.abort()
        elif self.transport.is_closing() or self._phase is _Phase.DEAF:
            pass  # what it has to send is on its way; `_stalled` ends it if it is not
        elif self._phase is _Phase.HEAD and waited > limits.header_timeout:
            detail = f"the request's headers were not complete after {limits.header_timeout:g} s"
            self._refuse(Refusal(SLOW_HEADERS, "slow_headers", detail))
        elif self._phase is _Phase.BODY and waited > limits.message_timeout and not self.flow.read_paused:
            detail = f"the request's body was not complete after {limits.message_timeout:g} s"
            self._refuse(Refusal(SLOW_HEADERS, "slow_body", detail))
        elif self._phase is _Phase.IDLE and not self._owes_answers() and waited > self._idle_timeout():
            self.transport.close()

    def _idle_timeout(self) -> float:
        return self._limits.keep_alive_timeout if self._served else self._limits.header_timeout

    def _stalled(self, now: float) -> bool:
        """There is something to send, and none of it went for a long time."""
        unsent = self.transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent or self._unsent == 0:
            self._stalled_since = now
        self._unsent = unsent
        return now - self._stalled_since > self._limits.write_timeout

    # Bytes

    def data_received(self, data: bytes) -> None:
        if self._phase is _Phase.DEAF:
            self._taken += len(data)
            if self._taken > _MAX_DROPPED_BYTES:
                self.transport.abort()
            return
        self._unset_keepalive_if_required()
        if self._phase is _Phase.IDLE:  # an empty line too: it must not buy time
            self._enter(_Phase.HEAD)
        self._taken += len(data)
        try:
            self._feed(data)
            self._check_size()
        except Refusal as refusal:
            self._refuse(refusal)
        except httptools.HttpParserError as error:
            self._refuse(_refusal_of(error))

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
            return
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        # The parser has stopped behind the headers. There is no protocol that we change to, so the request is
        # read as one that did not ask (RFC 9110, 7.8): with its body.
        head = self._head_without_upgrade()
        self._upgrade_asked = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.feed_data(head)
        if rest:
            self._feed(rest)

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%b %b HTTP/%b" % (self._method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                tokens = (token.strip() for token in value.split(b","))
                kept = b", ".join(token for token in tokens if token.lower() != b"upgrade")
                lines.append(b"connection: " + kept)
            elif name != b"upgrade":
                lines.append(name + b": " + value)
        return b"\r\n".join([*lines, b"", b""])

    def _check_size(self) -> None:
        limits = self._limits
        if self._phase is _Phase.HEAD and self._taken > limits.max_header_bytes + limits.max_target_bytes:
            raise self._large_headers(f"more than {limits.max_header_bytes} bytes")
        if self._phase is _Phase.BODY:
            framing = self._taken - self._body
            if framing > limits.max_header_bytes + _FRAMING_BYTES + _FRAMING_FACTOR * self._body:
                detail = "the body's chunks carry far more framing than content"
                raise Refusal(MALFORMED, "chunk_framing", detail)

    # Callbacks of the parser; exceptions end the request

    def on_message_begin(self) -> None:
        self._headers_bytes = 0
        self._enter(_Phase.HEAD)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self._limits.max_target_bytes:
            detail = f"the request's target has more than {self._limits.max_target_bytes} bytes"
            raise Refusal(LONG_TARGET, "long_target", detail)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is _Phase.BODY:
            return  # a trailer: a proxy that sets or removes headers does not look there, so nor do we
        self._headers_bytes += len(name) + len(value) + 4
        if self._headers_bytes > self._limits.max_header_bytes:
            raise self._large_headers(f"more than {self._limits.max_header_bytes} bytes")
        if len(self.headers) >= self._limits.max_headers:
            raise self._large_headers(f"more than {self._limits.max_headers} headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._method() == b"CONNECT":
            raise Refusal(NOT_IMPLEMENTED, "connect", "this server is no proxy: it has no CONNECT")
        version = self.parser.get_http_version()
        if version not in {"1.0", "1.1"}:  # the parser knows 0.9, which has no headers
            raise Refusal(MALFORMED, "malformed", f"expected HTTP/1.1 or 1.0, got {version}")
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (hosts == 0 and version == "1.1"):
            raise Refusal(MALFORMED, "malformed", f"a request needs one Host header, this one has {hosts}")
        if len(self.pipeline) >= self._limits.max_pipelined:
            raise Refusal(MALFORMED, "pipelined", "more requests at once than are answered")
        if self.parser.should_upgrade():
            self._upgrade_asked = True
            return
        try:
            super().on_headers_complete()
        except (UnicodeDecodeError, AttributeError, httptools.HttpParserInvalidURLError):
            detail = "the request's target is not a path or an absolute URL"
            raise Refusal(MALFORMED, "malformed", detail) from None
        self._enter(_Phase.BODY)

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._upgrade_asked:
            return
        super().on_message_complete()
        self._taken = self._body = 0
        self._enter(_Phase.IDLE)

    def on_response_complete(self) -> None:
        self._served = True
        super().on_response_complete()
        if self._phase is _Phase.IDLE:
            self._enter(_Phase.IDLE)
        elif self._phase is _Phase.DEAF and not self._owes_answers() and not self._lingering:
            self.transport.close()

    # State

    def _enter(self, phase: _Phase) -> None:
        self._phase = phase
        self._since = self.loop.time()
        self.register.set_idle(self, phase is _Phase.IDLE and not self._owes_answers())

    def _owes_answers(self) -> bool:
        """A whole request has come that is not answered yet."""
        cycle = self.cycle
        return bool(self.pipeline) or (
            cycle is not None and not cycle.response_complete and not cycle.more_body
        )

    def _refuse(self, refusal: Refusal) -> None:
        """Answer with a problem and end; after the answers to earlier requests, instead of ours, if some are
        due: nobody could tell whose ours is.
        """
        problem = refusal.problem
        self.register.refused(refusal.reason, self.peer, problem.status)
        broken = self.cycle
        if self.pipeline and self.pipeline[0][0].more_body:
            self.pipeline.popleft()  # the one that turned out broken; those before it are whole
        owes = self._owes_answers()
        self._enter(_Phase.DEAF)
        self._taken = 0
        if owes:
            return
        if broken is not None and not broken.response_complete:
            if broken.response_started:
                self.transport.close()
                return
            broken.disconnected = True  # its route may go on for a moment; what it says comes too late
            broken.message_event.set()
        if broken is not None and broken.response_complete and broken.more_body:
            self.transport.close()  # its answer has long been sent: the rest of its body does not come
            return
        self.transport.write(refusal_bytes(refusal, self.server_state.default_headers))
        if not self.register.linger(self):
            self.transport.close()
            return
        # Closing at once, with bytes of the client's unread, would reset the connection and lose the answer.
        self._lingering = True
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def _large_headers(self, what: str) -> Refusal:
        return Refusal(LARGE_HEADERS, "large_headers", f"the request's headers have {what}")

    def _method(self) -> bytes:
        return bytes(self.parser.get_method())


def _refusal_of(error: httptools.HttpParserError) -> Refusal:
    """What the parser, or one of our callbacks within it, found wrong."""
    cause = error.__context__
    if isinstance(cause, Refusal):
        return cause
    if cause is not None:
        log(logging.ERROR, "unhandled error while parsing a request", exc=cause)
    reason = (str(error) or type(error).__name__).splitlines()[0][:120]
    return Refusal(MALFORMED, "malformed", f"not an HTTP/1.1 request: {reason}")
