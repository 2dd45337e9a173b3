"""All open connections: how many there may be, which are idle, and the sweep that ends those that overstay.

One sweep for all, instead of timers on each connection: an ordinary request then costs a few assignments,
and no state of a connection can be forgotten.
"""

import asyncio
import logging
import resource
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from service.logs import log
from service.settings import Settings

_SPARE_DESCRIPTORS = 64  # for the worker's pipe, model files, sockets that are just being refused, ...
_MAX_LINGERING = 64
_LOG_INTERVAL = 5.0


@dataclass(frozen=True)
class Limits:
    """Of connections and of what precedes a body; times in seconds, sizes in bytes.

    header_timeout: from a request's first byte (or the connection's start) to the end of its headers.
    message_timeout: from there to the end of its body, for routes that set no limit of their own.
    write_timeout: with an answer to send and a client that reads nothing of it.
    """

    max_connections: int
    max_connections_per_peer: int | None
    header_timeout: float
    message_timeout: float
    keep_alive_timeout: float
    write_timeout: float
    max_header_bytes: int
    max_target_bytes: int = 8192
    max_headers: int = 100
    max_pipelined: int = 16
    linger: float = 2.0
    """Time a refused client has to read its answer."""

    @classmethod
    def of(cls, settings: Settings) -> "Limits":
        return cls(
            max_connections=_within_descriptors(settings.max_connections),
            max_connections_per_peer=settings.max_connections_per_peer,
            header_timeout=settings.header_timeout,
            # The routes' own limit comes first: its answer says how much has arrived.
            message_timeout=settings.body_timeout + 5.0,
            keep_alive_timeout=settings.keep_alive_timeout,
            write_timeout=settings.write_timeout,
            max_header_bytes=settings.max_header_bytes,
        )

    @property
    def sweep_interval(self) -> float:
        shortest = min(self.header_timeout, self.message_timeout, self.keep_alive_timeout, self.write_timeout)
        return max(0.05, min(1.0, shortest / 4))


class Connection(Protocol):
    """What the sweep needs of one."""

    peer: str

    def sweep(self, now: float) -> None:
        """Close if something takes too long; `now` in the loop's time."""
        ...

    def close_idle(self) -> None:
        """Make room: nothing of a request has come."""
        ...


class Connections:
    """The register. Everything happens on the event loop's thread."""

    def __init__(self, limits: Limits, on_refused: Callable[[str], None], on_change: Callable[[int], None]):
        self.limits = limits
        self._on_refused = on_refused
        self._on_change = on_change
        self._open: set[Connection] = set()
        self._peers: Counter[str] = Counter()
        self._idle: dict[Connection, None] = {}  # in the order in which they fell idle
        self._lingering: set[Connection] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._next_log = 0.0
        self._unlogged = 0

    def admit(self, connection: Connection) -> str | None:
        """None, or why this connection cannot be had. An idle one is closed where that makes room."""
        limits = self.limits
        most_each = limits.max_connections_per_peer
        if most_each is not None and self._peers[connection.peer] >= most_each:
            return "too_many_of_peer"
        if len(self._open) >= limits.max_connections:
            oldest = next(iter(self._idle), None)
            if oldest is None:
                return "too_many"
            self.forget(oldest)
            oldest.close_idle()
        self._open.add(connection)
        self._peers[connection.peer] += 1
        self._on_change(len(self._open))
        self._schedule()
        return None

    def linger(self, connection: Connection) -> bool:
        """May a refused one stay until it has read why? Only a few may: they are not counted as open."""
        if len(self._lingering) >= _MAX_LINGERING:
            return False
        self._lingering.add(connection)
        self._schedule()
        return True

    def set_idle(self, connection: Connection, idle: bool) -> None:
        self._idle.pop(connection, None)
        if idle and connection in self._open:
            self._idle[connection] = None

    def forget(self, connection: Connection) -> None:
        """It is closed, or as good as; safe to say twice."""
        self._idle.pop(connection, None)
        self._lingering.discard(connection)
        if connection in self._open:
            self._open.remove(connection)
            self._peers[connection.peer] -= 1
            if self._peers[connection.peer] <= 0:
                del self._peers[connection.peer]
            self._on_change(len(self._open))

    def refused(self, reason: str, peer: str, status: int | None) -> None:
        """Count, and log: refused connections come in floods, so of those only some lines."""
        self._on_refused(reason)
        if reason.startswith("too_many"):
            self._unlogged += 1
            if time.monotonic() < self._next_log:
                return
            self._next_log = time.monotonic() + _LOG_INTERVAL
            log(logging.WARNING, "connections refused", reason=reason, peer=peer, count=self._unlogged)
            self._unlogged = 0
        else:
            log(logging.INFO, "request refused", reason=reason, peer=peer, status=status)

    def _schedule(self) -> None:
        if self._timer is None and (self._open or self._lingering):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.limits.sweep_interval, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for connection in [*self._open, *self._lingering]:
            connection.sweep(now)
        self._schedule()


def _within_descriptors(wanted: int) -> int:
    """As many connections as this process may have descriptors for: past that, accepting itself fails."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY or wanted <= soft - _SPARE_DESCRIPTORS:
        return wanted
    possible = max(1, soft - _SPARE_DESCRIPTORS)
    log(
        logging.WARNING,
        "fewer connections than HINDSIGHT_MAX_CONNECTIONS: raise the limit of open files (ulimit -n)",
        wanted=wanted,
        possible=possible,
    )
    return possible
