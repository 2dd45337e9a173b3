"""The images of one request, all at once. Whatever becomes of them, their places are given back, and none
goes on after its request.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from service.admission import Slot

T = TypeVar("T")
Work = Coroutine[Any, Any, T]


async def all_or_none(slots: Sequence[Slot], works: Sequence[Work[T]]) -> list[T]:
    """The results, in order. The first failure takes the others out of the queue, and is raised. slots: all
    places of these works.
    """
    async with _running(slots, works) as tasks:
        try:
            return list(await asyncio.gather(*tasks))
        except Exception:
            for slot in slots:
                slot.neighbour_failed = True
            raise


async def each_for_itself(slots: Sequence[Slot], works: Sequence[Work[T]]) -> list[T | Exception]:
    """Result or error of each, in order. slots: all places of these works."""
    async with _running(slots, works) as tasks:
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    found: list[T | Exception] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome  # cancelled or interrupted: not one image's matter
        found.append(outcome)
    return found


@asynccontextmanager
async def _running(slots: Sequence[Slot], works: Sequence[Work[T]]) -> AsyncIterator[list[asyncio.Task[T]]]:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in slots:  # a task that is cancelled before it begins gives nothing back itself
            slot.release()
