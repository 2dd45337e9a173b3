"""The CPU pool: everything heavy that is not the model (taking bodies apart, decoding, letterboxing,
drawing).
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hindsight.manifest import ResizeRule
from hindsight.preprocess import ImageLimits, Letterboxed, decode_image, letterbox

T = TypeVar("T")
_INLINE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Prepared:
    """A letterboxed image; its seconds in each stage; and, when asked for, the upright original [H, W, 3] to
    draw on.
    """

    image: Letterboxed
    original: NDArray[np.uint8] | None
    decode_seconds: float
    letterbox_seconds: float


class CpuPool:
    """Threads for work that would hold up the event loop. Pillow releases the interpreter lock while it
    decodes.
    """

    def __init__(self, threads: int, limits: ImageLimits) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="cpu")
        self._limits = limits

    async def prepare(self, data: bytes, rule: ResizeRule, *, keep_original: bool = False) -> Prepared:
        """Decode and letterbox. Raises ImageError. A cancelled caller leaves the pool's queue at once."""
        return await self.run(_prepare, data, rule, self._limits, keep_original)

    async def run(self, work: Callable[..., T], *arguments: object) -> T:
        """`work(*arguments)` on a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work, *arguments)

    async def run_if_large(self, size: int, work: Callable[..., T], *arguments: object) -> T:
        """`work(*arguments)`, right here when `size` bytes are too few to be worth a thread."""
        return work(*arguments) if size <= _INLINE_BYTES else await self.run(work, *arguments)

    def close(self) -> None:
        """Drop what has not begun."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _prepare(data: bytes, rule: ResizeRule, limits: ImageLimits, keep_original: bool) -> Prepared:
    start = time.perf_counter()
    pixels = decode_image(data, limits)
    decoded = time.perf_counter()
    boxed = letterbox(pixels, rule)
    end = time.perf_counter()
    return Prepared(boxed, pixels if keep_original else None, decoded - start, end - decoded)
