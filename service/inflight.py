"""Requests under way: whether those that began before a moment have ended, and whether the server is about
to stop.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.errors import EngineUnavailable
from service.responses import problem_response


class Requests:
    """Counts requests by epoch. A new epoch begins whenever the set of models changes: once the requests of
    all earlier ones have ended, nobody holds a model that was taken away.
    """

    def __init__(self) -> None:
        self.draining = False
        """The server is stopping: not ready for new clients, and each answer ends its connection."""
        self._epoch = 0
        self._counts: Counter[int] = Counter()
        self._one_ended = asyncio.Event()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Count one request, from before it asks for its model until it is answered."""
        epoch = self._epoch
        self._counts[epoch] += 1
        try:
            yield
        finally:
            self._counts[epoch] -= 1
            if not self._counts[epoch]:
                del self._counts[epoch]
            self._one_ended.set()

    def new_epoch(self) -> None:
        """What begins from now on sees the new set of models."""
        self._epoch += 1

    async def earlier_ended(self) -> None:
        """Wait until no request of an epoch before the present one is under way."""
        present = self._epoch
        while any(epoch < present for epoch in self._counts):
            self._one_ended.clear()
            await self._one_ended.wait()


class CountRequests:
    """ASGI middleware around everything that asks for models; inside RequestContext."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def send_and_close(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if self._requests.draining:
                    MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        with self._requests.enter():
            try:
                await self._app(scope, receive, send_and_close)
            except asyncio.CancelledError:
                # The limit of a graceful stop has passed: the client learns why it gets no answer.
                if self._requests.draining and not begun:
                    error = EngineUnavailable("the server is shutting down; retry elsewhere or later")
                    request_id = str(Request(scope).scope["state"]["request_id"])
                    await problem_response(error, request_id)(scope, receive, send_and_close)
                raise
