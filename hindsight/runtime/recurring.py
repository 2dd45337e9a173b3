"""What is kept ready for inputs of one shape, for shapes that come again and again: a cache that does not
thrash.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["RecurringCache"]

Value = TypeVar("Value")
_REMEMBERED = 1024  # keys without a value


class RecurringCache(Generic[Value]):
    """At most `limit` values, each of which costs about as much to make as many inputs to run without.

    A key earns one when it has come `meetings` times. Once the cache is full it must have come `proof` times
    since the value that was unused for longest was used last: that one makes room. So a hundred shapes that
    come in turn keep the first values and make no others, while what is no longer used gives way.
    """

    def __init__(self, limit: int, *, meetings: int, proof: int) -> None:
        self.limit = limit
        self._meetings, self._proof = meetings, proof
        self._values: OrderedDict[Hashable, tuple[Value, int]] = (
            OrderedDict()
        )  # with the time of its last use
        self._met: OrderedDict[Hashable, deque[int]] = OrderedDict()
        self._now = 0

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable) -> Value | None:
        """The key's value, which counts as a use of it."""
        self._now += 1
        if key not in self._values:
            return None
        value, _ = self._values.pop(key)
        self._values[key] = value, self._now
        return value

    def earns(self, key: Hashable) -> bool:
        """Whether it is time to make a value for a key that came and has none."""
        met = self._met.pop(key, None) or deque(maxlen=self._proof)
        met.append(self._now)
        self._met[key] = met
        if len(self._met) > _REMEMBERED:
            self._met.popitem(last=False)
        if len(self._values) < self.limit:
            return len(met) >= self._meetings
        if not self._values:
            return False
        _, unused_since = next(iter(self._values.values()))
        return len(met) == self._proof and met[0] > unused_since

    def put(self, key: Hashable, value: Value) -> None:
        """Keep it. There must be room: `pop_oldest` makes some."""
        assert len(self._values) < self.limit
        self._met.pop(key, None)
        self._values[key] = value, self._now

    def any(self) -> Value | None:
        """One of the values, if there is one."""
        return next((value for value, _ in self._values.values()), None)

    def is_full(self) -> bool:
        """Whether `put` needs room to be made."""
        return len(self._values) >= self.limit

    def pop_oldest(self) -> Value:
        """Take out the one that was unused for longest."""
        return self._values.popitem(last=False)[1][0]
