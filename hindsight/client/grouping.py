"""Which images of many travel in one request.

A request costs a few milliseconds whatever is in it, and a server takes small images from it as fast as it
gets them. A photo is worth a request of its own: it is answered without waiting for others, and the server
can share its work out better.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from hindsight.client.wire import encoded
from hindsight.detections import Detections
from hindsight.errors import HindsightError, OptionError
from hindsight.picture import ImageLike

__all__ = ["Grouping", "Item", "Outcome", "attached", "groups_ahead", "item_of"]

_SMALL = 32 * 1024  # bytes of an encoded image
_MOST_IMAGES = 16
_MOST_BYTES = 256 * 1024
_MOST_ASKED = 64  # images that a server takes at a time
_MOST_BYTES_ASKED = 16 * 2**20  # a server takes 50 MB
_AHEAD = 2  # groups that are under way or done and not taken, for each that may be under way

Outcome = Detections | HindsightError


@dataclass(frozen=True)
class Item:
    """An image as it was given, and encoded, or why it cannot be."""

    image: ImageLike
    content: bytes | HindsightError

    @property
    def size(self) -> int:
        return len(self.content) if isinstance(self.content, bytes) else 0


class Grouping:
    """Items go in one by one, groups come out in their order. most: images a group; None for what pays."""

    def __init__(self, most: int | None) -> None:
        if most is not None and not 1 <= most <= _MOST_ASKED:
            raise OptionError(f"images_per_request must be in 1..{_MOST_ASKED}, got {most!r}")
        self._most = _MOST_IMAGES if most is None else most
        self._most_bytes = _MOST_BYTES if most is None else _MOST_BYTES_ASKED
        self._small = _SMALL if most is None else _MOST_BYTES_ASKED
        self._open: list[Item] = []
        self._ready: deque[list[Item]] = deque()

    def add(self, item: Item) -> None:
        held = sum(other.size for other in self._open)
        if item.size > self._small or held + item.size > self._most_bytes:
            self._flush()
        self._open.append(item)
        if item.size > self._small or len(self._open) >= self._most:
            self._flush()

    def complete(self) -> Iterator[list[Item]]:
        """The groups that need wait for no further item."""
        while self._ready:
            yield self._ready.popleft()

    def rest(self) -> Iterator[list[Item]]:
        """All that are left: no more items come."""
        self._flush()
        yield from self.complete()

    def _flush(self) -> None:
        if self._open:
            self._ready.append(self._open)
            self._open = []


def groups_ahead(concurrency: int) -> int:
    """How many groups may be under way or done and not taken, of which `concurrency` are under way. Raises
    OptionError.
    """
    if concurrency < 1:
        raise OptionError(f"concurrency must be a whole number from 1, got {concurrency!r}")
    return _AHEAD * concurrency


def item_of(image: ImageLike) -> Item:
    """Encoded; an image that cannot be carries its error."""
    try:
        return Item(image, encoded(image))
    except HindsightError as error:
        return Item(image, error)


def attached(group: list[Item], outcomes: list[Outcome]) -> Iterator[Outcome]:
    """Outcomes that lead back to their images."""
    for item, outcome in zip(group, outcomes, strict=True):
        if isinstance(outcome, Detections):
            yield outcome.with_image(item.image, keep=False)
        else:
            yield outcome
