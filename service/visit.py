"""The request under way, by whatever protocol it came: what its log line will say, and who pays for its
images.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any


def _free(images: int) -> None:
    """Nobody is charged."""


@dataclass(frozen=True)
class Visit:
    """facts: for the log line: key, model, images. stages: milliseconds by stage, summed over the images.
    charge: counts images beyond the first, which was paid at the door; may raise RateLimited.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    charge: Callable[[int], None] = _free


_current: ContextVar[Visit | None] = ContextVar("hindsight_visit", default=None)


def current() -> Visit | None:
    """None outside of any request, and before it was let in."""
    return _current.get()


def begin(visit: Visit) -> None:
    """For the rest of this task, and those that it starts."""
    _current.set(visit)


@contextmanager
def during(visit: Visit) -> Iterator[None]:
    token = _current.set(visit)
    try:
        yield
    finally:
        _current.reset(token)


def count_images(model: str, images: int) -> None:
    """What a handler says once it knows: the model and how many images it was sent. Raises RateLimited."""
    visit = _current.get()
    if visit is not None:
        visit.facts.update(model=model, images=images)
        visit.charge(images - 1)


def count_stages(milliseconds: Mapping[str, float]) -> None:
    """One image was answered, after this long in each stage."""
    visit = _current.get()
    if visit is not None:
        for stage, value in milliseconds.items():
            visit.stages[stage] = round(visit.stages.get(stage, 0.0) + value, 3)
