"""Several images of one request, all or none."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from service.access import count_images
from service.admission import Slot
from service.callers import Caller
from service.pipeline import Services, all_or_none

T = TypeVar("T")


async def all_of(
    services: Services,
    caller: Caller,
    model: str,
    count: int,
    work: Callable[[int, Slot], Coroutine[Any, Any, T]],
) -> list[T]:
    """`work(index, slot)` for each image of `model`, at once; the first that fails takes the others out of
    the queue.

    Raises RateLimited, Busy, EngineUnavailable, and what `work` raises.
    """
    count_images(model, count)
    slots = services.batcher.admit(count, caller, model=model)
    try:
        return await all_or_none(work(index, slot) for index, slot in enumerate(slots))
    finally:
        for slot in slots:  # a task that is cancelled before it begins gives nothing back itself
            slot.release()
