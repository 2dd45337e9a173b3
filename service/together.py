"""The images of one request, all at once. Whatever becomes of them, each gives its place back, and none goes
on after its request.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from service.admission import Slot

T = TypeVar("T")
Work = Callable[[int, Slot], Coroutine[Any, Any, T]]
"""What to do with an image, given its number and its place."""


async def all_or_none(slots: Sequence[Slot], work: Work[T]) -> list[T]:
    """The results, in order. The first failure takes the others out of the queue, and is raised."""
    async with _running(slots, work) as tasks:
        return list(await asyncio.gather(*tasks))


async def each_for_itself(slots: Sequence[Slot], work: Work[T]) -> list[T | Exception]:
    """Result or error of each, in order."""
    async with _running(slots, work) as tasks:
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    found: list[T | Exception] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome  # cancelled or interrupted: not one image's matter
        found.append(outcome)
    return found


@asynccontextmanager
async def _running(slots: Sequence[Slot], work: Work[T]) -> AsyncIterator[list[asyncio.Task[T]]]:
    tasks = [asyncio.ensure_future(work(index, slot)) for index, slot in enumerate(slots)]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for slot in slots:  # a task that is cancelled before it begins gives nothing back itself
            slot.release()
