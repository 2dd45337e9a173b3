"""The CPU pool: everything heavy that is not the model (taking bodies apart, decoding, letterboxing,
drawing).
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from hindsight.manifest import ResizeRule
from hindsight.preprocess import ImageLimits, Letterboxed, decode_image, letterbox
from service.errors import DeadlineExceeded
from service.metrics import Metrics

T = TypeVar("T")
_INLINE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Prepared:
    """A letterboxed image and its seconds in each stage. The original's pixels are gone: hundreds of
    megabytes must not wait in the queue.
    """

    image: Letterboxed
    decode_seconds: float
    letterbox_seconds: float


class CpuPool:
    """Threads for work that would hold up the event loop. Pillow releases the interpreter lock while it
    decodes.
    """

    def __init__(self, threads: int, limits: ImageLimits, metrics: Metrics) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="cpu")
        self._metrics = metrics
        self.limits = limits
        metrics.decode_threads.set(threads)

    async def prepare(self, data: bytes, rule: ResizeRule, deadline: float) -> Prepared:
        """Decode and letterbox. Raises ImageError; DeadlineExceeded where no thread was free before
        `deadline` (time.monotonic seconds). A cancelled caller leaves the pool's queue at once.
        """
        return await self.run(_prepare, data, rule, self.limits, deadline)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """`work(*arguments)` on a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._busy, work, arguments)

    async def run_if_large(self, size: int, work: Callable[..., T], *arguments: object) -> T:
        """`work(*arguments)`, right here when `size` bytes are too few to be worth a thread."""
        return work(*arguments) if size <= _INLINE_BYTES else await self.run(work, *arguments)

    def _busy(self, work: Callable[..., T], arguments: tuple[object, ...]) -> T:
        with self._metrics.decode_threads_busy.track_inprogress():
            return work(*arguments)

    def close(self) -> None:
        """Drop what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _prepare(data: bytes, rule: ResizeRule, limits: ImageLimits, deadline: float) -> Prepared:
    if time.monotonic() >= deadline:
        raise DeadlineExceeded("the image's deadline passed before it could be decoded; it was not run")
    start = time.perf_counter()
    pixels = decode_image(data, limits)
    decoded = time.perf_counter()
    boxed = letterbox(pixels, rule)
    end = time.perf_counter()
    return Prepared(boxed, decoded - start, end - decoded)
