"""Memory that large images leave behind goes back to the system, and does not spread over many heaps.

glibc keeps freed blocks of up to 32 MB in the heap of each thread: after some thousand images of odd sizes
the server held 260 MB of nothing. Handing every block back at once would cost a decode half its speed again
(fresh pages are slow), so it happens now and then, and only where memory has grown.
"""

import asyncio
import ctypes
import gc
import os
import resource
from collections.abc import Callable
from pathlib import Path

_INTERVAL = 20.0  # at most some per cent of the time then go into fresh pages
_GROWTH = 32 * 2**20
_PAGE = resource.getpagesize()
# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT = 2**30
_LARGEST_IN_HEAP = 32 * 2**20  # the most that mallopt takes


def tune_malloc() -> None:
    """One heap for each core instead of glibc's eight, and freed pages are kept until `trim_now_and_then`. To
    be called before there are threads. What the environment says (MALLOC_ARENA_MAX, ...) has precedence.

    Each thread that decodes keeps what it freed in a heap of its own: 20,000 odd images left 81 MB with
    glibc's default, 15 MB with two heaps (benchmarks/fuzz_server.py). And glibc gives the top of a heap back
    at once; whether the pixels of a photo lie there is chance, and fetching fresh pages for them tripled
    the time of a decode.
    """
    mallopt = _of_libc("mallopt")
    if mallopt is None:
        return
    wanted = (
        ("MALLOC_ARENA_MAX", _M_ARENA_MAX, max(2, os.cpu_count() or 2)),
        ("MALLOC_TRIM_THRESHOLD_", _M_TRIM_THRESHOLD, _KEPT),
        ("MALLOC_MMAP_THRESHOLD_", _M_MMAP_THRESHOLD, _LARGEST_IN_HEAP),
    )
    for variable, parameter, value in wanted:
        if variable not in os.environ:
            mallopt(parameter, value)


async def trim_now_and_then() -> None:
    """Runs until cancelled. Does nothing with a libc that has no malloc_trim."""
    trim = _of_libc("malloc_trim")
    if trim is None:
        return
    gc.collect()
    gc.freeze()  # what has been loaded stays: later collections need not look at it, and are short
    least = _resident_bytes()
    while True:
        await asyncio.sleep(_INTERVAL)
        resident = _resident_bytes()
        if resident > least + _GROWTH:
            await asyncio.to_thread(_release, trim)
            resident = _resident_bytes()
        least = min(least, resident)  # never raised: what is held in the rush of work is no measure


def _release(trim: Callable[..., object]) -> None:
    """An error keeps its frames, and they the pixels of the image that failed, until a collection."""
    gc.collect()
    trim(0)


def _of_libc(name: str) -> Callable[..., object] | None:
    """A function that only some libraries have."""
    try:
        found: Callable[..., object] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError):
        return None
    return found


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
