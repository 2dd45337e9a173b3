"""The HTTP server's stop: uvicorn's, with an order that loses no request.

SIGTERM -> not ready, answers end their connections -> `drain_delay` -> what had connected by then is
accepted, the listener closes -> what had been sent by then is read -> idle connections close -> everything is
answered, or refused at `shutdown_timeout`. A second signal cuts all that short.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from types import FrameType

import uvicorn

from service.logs import log

_READ_SECONDS = 0.1
"""Time to read what lies in the sockets' buffers after the listener has closed."""
_LAST_WORDS_SECONDS = 2.0
"""Time to write the refusals at the end."""


class Server(uvicorn.Server):
    """on_drain: called at the first signal, inside its handler. abandon: refuses everything that waits.
    stop_others: stops what else takes requests, when the listeners close. on_hangup: called for SIGHUP, which
    otherwise ends the process.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain_delay: float,
        limit: float,
        on_drain: Callable[[], None],
        abandon: Callable[[], Awaitable[None]],
        stop_others: Callable[[], Awaitable[None]],
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._drain_delay = drain_delay
        self._limit = limit
        self._on_drain = on_drain
        self._abandon = abandon
        self._stop_others = stop_others
        self._on_hangup = on_hangup
        self._asked = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains, the second stops at once."""
        if self._asked:
            self.force_exit = True
        self._asked = self.should_exit = True
        self._on_drain()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, to SIGHUP too."""
        await super().startup(sockets)
        if self._on_hangup is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)

    async def main_loop(self) -> None:
        """Serve until a signal, and for the drain delay after it."""
        await super().main_loop()
        if self._asked:  # not where a worker failed at the start
            log(logging.INFO, "stopping", connections=len(self.server_state.connections))
            end = time.monotonic() + self._drain_delay
            while time.monotonic() < end and not self.force_exit:
                await self.on_tick(0)  # keeps the Date header true
                await asyncio.sleep(0.05)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer everything that was sent, within the limit, and end the application."""
        start = time.monotonic()
        self._on_drain()
        stopping = asyncio.ensure_future(self._stop_others())
        await self._stop_listening(sockets or [])
        await self._pause(_READ_SECONDS)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        await self._answered(start + self._limit)
        if self._unanswered:
            level = logging.WARNING if self.force_exit else logging.ERROR
            log(level, "stopped with requests unanswered", requests=len(self.server_state.tasks))
            await self._abandon()
            await self._answered(time.monotonic() + _LAST_WORDS_SECONDS, forced=True)
            for task in list(self.server_state.tasks):
                task.cancel()
            await self._answered(time.monotonic() + _LAST_WORDS_SECONDS, forced=True)
        for connection in list(self.server_state.connections):
            connection.transport.close()
        while not (stopping.done() or self.force_exit) and time.monotonic() < start + self._limit:
            await asyncio.sleep(0.02)
        await self.lifespan.shutdown()  # ends what the others have not
        await asyncio.gather(stopping, return_exceptions=True)
        # Debug where a worker failed at the start: that is for the command line to say, in one line.
        level = logging.INFO if self._asked else logging.DEBUG
        log(level, "stopped", seconds=round(time.monotonic() - start, 3))

    @property
    def _unanswered(self) -> bool:
        # An answer may be complete for its task while the client still has to take the end of it.
        return bool(self.server_state.tasks or self.server_state.connections)

    async def _answered(self, end: float, *, forced: bool = False) -> None:
        while self._unanswered and time.monotonic() < end and (forced or not self.force_exit):
            await asyncio.sleep(0.02)

    async def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.force_exit:
            await asyncio.sleep(0.02)

    async def _stop_listening(self, sockets: list[socket.socket]) -> None:
        """Close the listeners, but serve whoever had connected: closing one resets what waits in it."""
        kept = [each.dup() for each in sockets]
        for server in self.servers:
            server.close()
        for each in sockets:
            each.close()
        waiting: list[socket.socket] = []
        for listener in kept:
            listener.setblocking(False)
            try:
                while True:
                    waiting.append(listener.accept()[0])
            except OSError:  # nobody waits any more
                listener.close()
        loop = asyncio.get_running_loop()
        tasks = []
        for each in waiting:
            each.setblocking(False)
            accepting = loop.connect_accepted_socket(self._protocol, each, ssl=self.config.ssl)
            tasks.append(asyncio.ensure_future(accepting))
        if tasks:
            await asyncio.wait(tasks, timeout=_LAST_WORDS_SECONDS)  # a TLS handshake may never end

    def _protocol(self) -> asyncio.Protocol:
        made: asyncio.Protocol = self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made
