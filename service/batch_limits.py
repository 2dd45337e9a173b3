"""How many images of one shape fit on a device, learned from batches that did not."""

from collections.abc import Callable
from dataclasses import dataclass

from service.estimates import ShapeKey

_FIRST_PAUSE = 30.0  # seconds before a larger batch is tried again
_LONGEST_PAUSE = 1800.0


@dataclass
class _Limit:
    images: int
    pause: float
    probe_at: float


class BatchLimits:
    """After an out-of-memory the limit of the shape is half of what failed. After a pause twice as many are
    tried; where that fails again, the next pause is twice as long. Other tenants of a GPU come and go, so no
    limit is for ever.
    """

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self._most = most
        self._clock = clock
        self._limits: dict[ShapeKey, _Limit] = {}

    def allowed(self, key: ShapeKey) -> int:
        """The most images of this shape to put into one batch now."""
        limit = self._limits.get(key)
        if limit is None:
            return self._most
        return min(self._most, 2 * limit.images if self._clock() >= limit.probe_at else limit.images)

    def refused(self, key: ShapeKey, images: int) -> None:
        """A batch of so many (at least two) did not fit."""
        known = self._limits.get(key)
        pause = _FIRST_PAUSE
        if known is not None and self._clock() >= known.probe_at:
            pause = min(2 * known.pause, _LONGEST_PAUSE)
        elif known is not None:
            pause = known.pause
        self._limits[key] = _Limit(max(1, images // 2), pause, self._clock() + pause)

    def fitted(self, key: ShapeKey, images: int) -> None:
        """A batch of so many did; past the limit, that is a probe that succeeded."""
        limit = self._limits.get(key)
        if limit is None or images <= limit.images:
            return
        if images >= self._most:
            del self._limits[key]
        else:
            limit.images, limit.pause = images, _FIRST_PAUSE
            limit.probe_at = self._clock() + _FIRST_PAUSE
