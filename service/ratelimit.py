"""A token bucket per key. One image is one token."""

import math
import time
from collections.abc import Callable

from service.errors import RateLimited
from service.keys import Key


class TokenBucket:
    """`burst` tokens at most, refilled by `rate` a second. A request that costs more than `burst` needs a
    full bucket and leaves it in debt, so what passes in the long run is `rate`, however images are packed.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst = rate, burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled = clock()

    def take(self, cost: int, paid: int = 0) -> float:
        """Take `cost` tokens and return 0; or take none and return the seconds until there are enough.
        `paid`: tokens that the same request has taken before.
        """
        now = self._clock()
        self._tokens = min(float(self.burst), self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        missing = min(paid + cost, self.burst) - paid - self._tokens
        if missing > 1e-9:
            return missing / self.rate
        self._tokens -= cost
        return 0.0


class RateLimits:
    """The buckets of all keys. A key whose limit changes starts with a full bucket."""

    def __init__(self) -> None:
        self._buckets: dict[str, TokenBucket] = {}

    def charge(self, key: Key, cost: int, paid: int = 0) -> None:
        """Raises RateLimited where `key` has sent too many images. See TokenBucket.take."""
        if key.rate is None or key.burst is None or cost <= 0:
            return
        bucket = self._buckets.get(key.name)
        if bucket is None or (bucket.rate, bucket.burst) != (key.rate, key.burst):
            bucket = self._buckets[key.name] = TokenBucket(key.rate, key.burst)
        wait = bucket.take(cost, paid)
        if wait > 0:
            raise RateLimited(
                f"key {key.name!r} may send {key.rate:g} images/s, {key.burst} at once; "
                f"retry in {max(1, math.ceil(wait))} s",
                retry_after=wait,
            )

    def keep_only(self, names: set[str]) -> None:
        """Forget the keys that are gone."""
        for name in set(self._buckets) - names:
            del self._buckets[name]
