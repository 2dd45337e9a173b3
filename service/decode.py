"""The CPU pool: everything heavy that is not the model (taking bodies apart, decoding, letterboxing,
drawing).
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from hindsight.decode import footprint
from hindsight.errors import ImageTooLarge
from hindsight.manifest import ResizeRule
from hindsight.preprocess import ImageLimits, Letterboxed, decode_image, letterbox, padded_hw, scaled_hw
from service.errors import Busy, DeadlineExceeded
from service.memory import ImageLease

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

    def __init__(self, threads: int, limits: ImageLimits) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="cpu")
        self.limits = limits

    async def prepare(self, data: bytes, rule: ResizeRule, deadline: float, lease: ImageLease) -> Prepared:
        """Decode and letterbox, in memory of the lease, which holds the letterboxed image alone afterwards.

        Raises ImageError; DeadlineExceeded where no thread was free before `deadline` (time.monotonic
        seconds), Busy where no memory was. A cancelled caller leaves the pool's queue at once.
        """
        prepared = await self._run_leased(lease, data, rule, deadline)
        if isinstance(prepared, _TooLittleMemory):
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await lease.take(prepared.needed)
            except TimeoutError:
                raise Busy(
                    f"the {prepared.needed} bytes that decoding takes were not free before the deadline; "
                    "retry in 1 s",
                    retry_after=1.0,
                ) from None
            prepared = await self._run_leased(lease, data, rule, deadline)
        assert isinstance(prepared, Prepared), "the memory was there"
        lease.shrink(prepared.image.image.nbytes)
        return prepared

    async def _run_leased(
        self, lease: ImageLease, data: bytes, rule: ResizeRule, deadline: float
    ) -> "Prepared | _TooLittleMemory":
        """A thread that has begun goes on when its caller is cancelled; the lease then ends with the thread,
        not with the caller, for the memory is in use until then.
        """
        running = self._executor.submit(_prepare, data, rule, self.limits, deadline, lease)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            if not running.cancelled():
                lease.hand_over(running)
            raise

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """`work(*arguments)` on a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    async def run_if_large(self, size: int, work: Callable[..., T], *arguments: object) -> T:
        """`work(*arguments)`, right here when `size` bytes are too few to be worth a thread."""
        return work(*arguments) if size <= _INLINE_BYTES else await self.run(work, *arguments)

    def close(self) -> None:
        """Drop what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _TooLittleMemory:
    needed: int


def _prepare(
    data: bytes, rule: ResizeRule, limits: ImageLimits, deadline: float, lease: ImageLease
) -> Prepared | _TooLittleMemory:
    if time.monotonic() >= deadline:
        raise DeadlineExceeded("the image's deadline passed before it could be decoded; it was not run")
    start = time.perf_counter()
    if not lease.held:
        needed = _memory_for(data, rule, limits)
        if needed > lease.limit:
            raise ImageTooLarge(
                f"decoding the image would take {needed} bytes; the server has {lease.limit} for all images"
            )
        if not lease.try_take(needed):
            return _TooLittleMemory(needed)
    pixels = decode_image(data, limits)
    decoded = time.perf_counter()
    boxed = letterbox(pixels, rule)
    end = time.perf_counter()
    return Prepared(boxed, decoded - start, end - decoded)


def _memory_for(data: bytes, rule: ResizeRule, limits: ImageLimits) -> int:
    """The most bytes that decoding and letterboxing hold at one time."""
    size = footprint(data, limits)
    height, width = padded_hw(scaled_hw(size.hw, rule), rule)
    return size.working_bytes + height * width * 3
