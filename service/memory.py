"""The memory that images take while they are in the house: asked for before they are decoded, given back
exactly once.
"""

import asyncio
import contextlib
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any


class ImageMemory:
    """A budget in bytes for all images together. First come, first served, so that a large image gets its
    turn between small ones.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._held = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held(self) -> int:
        return self._held

    def lease(self) -> "ImageLease":
        return ImageLease(self)

    def try_take(self, count: int) -> bool:
        """Take `count` bytes if nobody waits and they are free. From any thread."""
        with self._lock:
            if self._waiting or self._held + count > self.limit:
                return False
            self._held += count
            return True

    async def take(self, count: int) -> None:
        """Wait for `count` bytes, at most `limit`; whoever is cancelled leaves the line without them."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append((count, turn))
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._admit()  # those behind it may fit now
            else:  # its turn had come, but nobody is there to use it
                self.give(count)
            raise

    def give(self, count: int) -> None:
        """On the event loop: give `count` bytes back."""
        with self._lock:
            self._held -= count
        self._admit()

    def _admit(self) -> None:
        with self._lock:
            while self._waiting:
                count, turn = self._waiting[0]
                if not turn.cancelled():
                    if self._held + count > self.limit:
                        return
                    self._held += count
                    turn.set_result(None)
                self._waiting.popleft()


class ImageLease(AbstractContextManager["ImageLease"]):
    """One image's share of the budget; what is left of it goes back when the block ends."""

    def __init__(self, memory: ImageMemory) -> None:
        self._memory = memory
        self._count = 0
        self._handed_over = False

    @property
    def limit(self) -> int:
        return self._memory.limit

    @property
    def held(self) -> int:
        return self._count

    def try_take(self, count: int) -> bool:
        """See ImageMemory; an image takes once."""
        if not self._memory.try_take(count):
            return False
        self._count = count
        return True

    async def take(self, count: int) -> None:
        """See ImageMemory; an image takes once."""
        await self._memory.take(count)
        self._count = count

    def shrink(self, count: int) -> None:
        """Keep `count` bytes, give the rest back."""
        spare, self._count = self._count - count, count
        self._memory.give(spare)

    def hand_over(self, running: "Future[Any]") -> None:
        """Its block ends, but a thread still uses the memory: that goes back when the thread is done."""
        self._handed_over = True
        loop = asyncio.get_running_loop()

        def done(_: "Future[Any]") -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody counts any more
                loop.call_soon_threadsafe(self.shrink, 0)

        running.add_done_callback(done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._handed_over:
            self.shrink(0)
