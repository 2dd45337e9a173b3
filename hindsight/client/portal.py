"""An event loop in a thread of its own, for callers that have none."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

__all__ = ["Portal"]

T = TypeVar("T")
_STOP_SECONDS = 5.0


class Portal:
    """To be closed. at_end: called in the loop before it stops."""

    def __init__(self, at_end: Callable[[], None]) -> None:
        self._loop = asyncio.new_event_loop()
        self._open = True
        self._lock = threading.RLock()
        self._thread = threading.Thread(
            target=_work, args=(self._loop, at_end), name="hindsight-client", daemon=True
        )
        self._thread.start()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Cancelling the future cancels the coroutine. Raises RuntimeError after `close`."""
        with self._lock:
            if self._open:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        raise RuntimeError("this client is closed")

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result. Ctrl-C cancels it. Raises RuntimeError where `close` does."""
        return self.wait(self.submit(coroutine))

    @staticmethod
    def wait(future: Future[T]) -> T:
        """As `run`, of what was submitted."""
        try:
            return future.result()
        except CancelledError:
            raise RuntimeError("this client was closed by another thread") from None
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what is under way and end the thread."""
        with self._lock:  # whatever was submitted is in the loop before it stops, and so is cancelled
            if self._open:
                self._open = False
                self._loop.call_soon_threadsafe(self._loop.stop)
        if self._thread is not threading.current_thread():
            self._thread.join(_STOP_SECONDS)


def _work(loop: asyncio.AbstractEventLoop, at_end: Callable[[], None]) -> None:
    try:
        loop.run_forever()
        at_end()
        loop.run_until_complete(_cancel_all())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # aborted connections close their sockets in the loop's next turn
    await asyncio.sleep(0)
