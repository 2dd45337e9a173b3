"""Whose turn it is: the order in which waiting images run.

Clients take turns, and the requests of one client take turns, so neither a client that sends much nor a
request of many images can hold up a single image of somebody else for longer than one turn of each of those
before it. A turn is measured in seconds of work, not in images: a small model and a large one share fairly.
"""

import itertools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Waiting(Protocol):
    """An image that waits. bucket: what may share its batch. seconds: the work it is expected to be."""

    @property
    def client(self) -> Hashable: ...
    @property
    def request(self) -> Hashable: ...
    @property
    def bucket(self) -> Hashable: ...
    @property
    def seconds(self) -> float: ...


E = TypeVar("E", bound=Waiting)
V = TypeVar("V")


@dataclass
class _Member(Generic[V]):
    """received: seconds of work since it joined, on top of what the others had when it did. order: decides
    between equals; renewed with each turn.
    """

    content: V
    received: float
    order: int


class _Turns(Generic[V]):
    """Those who share a level. Whoever has received least is next.

    A newcomer joins at the end of the round, level with whoever has received most. Were it to join level with
    whoever has least, then an endless stream of newcomers would always go first, and starve the rest.
    """

    def __init__(self) -> None:
        self._members: dict[Hashable, _Member[V]] = {}
        self._orders = itertools.count()

    def __iter__(self) -> Iterator[V]:
        return (member.content for member in self._members.values())

    def join(self, key: Hashable, make: Callable[[], V]) -> V:
        """The content of this member, which joins if it is new."""
        member = self._members.get(key)
        if member is None:
            received = max((other.received for other in self._members.values()), default=0.0)
            member = self._members[key] = _Member(make(), received, next(self._orders))
        return member.content

    def get(self, key: Hashable) -> V:
        return self._members[key].content

    def leave(self, key: Hashable) -> None:
        del self._members[key]

    def charge(self, key: Hashable, seconds: float) -> None:
        """It had its turn."""
        member = self._members[key]
        member.received += seconds
        member.order = next(self._orders)

    def next(self, wanted: Callable[[V], bool]) -> V | None:
        """The content of the member whose turn it is, among those wanted."""
        candidates = (member for member in self._members.values() if wanted(member.content))
        best = min(candidates, key=lambda member: (member.received, member.order), default=None)
        return None if best is None else best.content


class FairQueue(Generic[E]):
    """Everything that waits, by client and by request. Not for several threads."""

    def __init__(self) -> None:
        self._clients: _Turns[_Turns[list[E]]] = _Turns()
        self._members: dict[int, E] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[E]:
        return iter(list(self._members.values()))

    def __contains__(self, entry: E) -> bool:
        return id(entry) in self._members

    def add(self, entry: E) -> None:
        """Behind the other images of its request."""
        requests = self._clients.join(entry.client, _Turns[list[E]])
        requests.join(entry.request, list[E]).append(entry)
        self._members[id(entry)] = entry

    def remove(self, entry: E) -> None:
        """Without a turn: its client has left, or its time is over."""
        del self._members[id(entry)]
        requests = self._clients.get(entry.client)
        images = requests.get(entry.request)
        images.remove(entry)
        if not images:
            requests.leave(entry.request)
            if not list(requests):
                self._clients.leave(entry.client)

    def take(self, bucket: Hashable | None = None) -> E | None:
        """The next image, of this bucket if one is given; it leaves the queue and its turn is counted."""

        def fits(entry: E) -> bool:
            return bucket is None or entry.bucket == bucket

        requests = self._clients.next(lambda requests: any(any(map(fits, images)) for images in requests))
        images = None if requests is None else requests.next(lambda images: any(map(fits, images)))
        if requests is None or images is None:
            return None
        entry = next(filter(fits, images))
        requests.charge(entry.request, entry.seconds)
        self._clients.charge(entry.client, entry.seconds)
        self.remove(entry)
        return entry
