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
        """Decode and letterbox. The lease holds the letterboxed image alone afterwards. Raises as
        run_in_memory.
        """
        prepared = await self.run_in_memory(
            lease,
            deadline,
            lambda: _memory_for(data, rule, self.limits),
            lambda: _prepare(data, rule, self.limits),
        )
        lease.shrink(prepared.image.image.nbytes)
        return prepared

    async def run_in_memory(
        self, lease: ImageLease, deadline: float, needed: Callable[[], int], work: Callable[[], T]
    ) -> T:
        """`work()` on a thread of the pool, once the lease has got the `needed()` bytes.

        Raises what both raise; ImageTooLarge where so many bytes there are not; DeadlineExceeded where no
        thread was free before `deadline` (time.monotonic seconds), Busy where no memory was. A cancelled
        caller leaves the pool's queue at once.
        """
        outcome = await self._run_leased(lease, deadline, needed, work)
        if isinstance(outcome, _TooLittleMemory):
            try:
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await lease.take(outcome.needed)
            except TimeoutError:
                raise Busy(
                    f"the {outcome.needed} bytes that decoding takes were not free before the deadline; "
                    "retry in 1 s",
                    retry_after=1.0,
                ) from None
            outcome = await self._run_leased(lease, deadline, needed, work)
        assert not isinstance(outcome, _TooLittleMemory), "the memory was there"
        return outcome

    async def _run_leased(
        self, lease: ImageLease, deadline: float, needed: Callable[[], int], work: Callable[[], T]
    ) -> "T | _TooLittleMemory":
        """A thread that has begun goes on when its caller is cancelled; the lease then ends with the thread,
        not with the caller, for the memory is in use until then.
        """
        running = self._executor.submit(_within, lease, deadline, needed, work)
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


def _within(
    lease: ImageLease, deadline: float, needed: Callable[[], int], work: Callable[[], T]
) -> T | _TooLittleMemory:
    if time.monotonic() >= deadline:
        raise DeadlineExceeded("the image's deadline passed before it could be decoded; it was not run")
    if not lease.held:
        count = needed()
        if count > lease.limit:
            raise ImageTooLarge(
                f"decoding the image would take {count} bytes; the server has {lease.limit} for all images"
            )
        if not lease.try_take(count):
            return _TooLittleMemory(count)
    return work()


def _prepare(data: bytes, rule: ResizeRule, limits: ImageLimits) -> Prepared:
    start = time.perf_counter()
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
