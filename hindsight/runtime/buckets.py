"""Which of an engine's profiles a batch runs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from hindsight.engines import Bucket
from hindsight.errors import OptionError

__all__ = ["Step", "plan_batch"]

# An execution costs about as much as one more image: what is launched, and a GPU that one image cannot fill.
_EXECUTION_COST = 1


@dataclass(frozen=True)
class Step:
    """One execution: images first .. first + count - 1 of a batch, in the bucket of that index."""

    bucket: int
    first: int
    count: int


def plan_batch(
    count: int, height: int, width: int, buckets: Sequence[Bucket], *, boxes: int | None = None
) -> list[Step]:
    """Cut a batch of `count` images of height x width into executions; blank images fill the last one.

    Of the buckets that the images (and, to rescore, `boxes` boxes an image) fit into, the smallest shape is
    taken, and of its batches those that cost least. Raises OptionError where no bucket is large enough.
    """
    fitting = [
        index
        for index, bucket in enumerate(buckets)
        if bucket.height >= height and bucket.width >= width and (bucket.boxes or 0) >= (boxes or 0)
    ]
    if not fitting:
        there = ", ".join(dict.fromkeys(_shape(bucket) for bucket in buckets))
        wanted = f"{height}x{width}" + (f" with {boxes} boxes" if boxes is not None else "")
        raise OptionError(f"the engine has no shape for an input of {wanted}, only for {there}")
    least = min(_volume(buckets[index]) for index in fitting)
    by_batch = {buckets[index].batch: index for index in fitting if _volume(buckets[index]) == least}
    steps, first = [], 0
    for batch in _batches(count, tuple(sorted(by_batch))):
        taken = min(batch, count - first)
        steps.append(Step(by_batch[batch], first, taken))
        first += taken
    return steps


@cache
def _batches(count: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Batches that hold `count` images at the least cost, largest first."""
    if count <= 0:
        return ()
    largest = sizes[-1]
    whole = max(0, count // largest - 1)  # of these many it is certain, the rest is tried out
    best = _cheapest(count - whole * largest, sizes)
    return tuple(sorted((largest,) * whole + best, reverse=True))


def _cheapest(count: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The choice for each smaller count leads to that for `count`."""
    best: list[tuple[int, tuple[int, ...]]] = [(0, ())]
    for images in range(1, count + 1):
        options = []
        for size in sizes:
            cost, batches = best[max(0, images - size)]
            options.append((cost + size + _EXECUTION_COST, (size, *batches)))
        best.append(min(options, key=lambda option: (option[0], len(option[1]))))
    return best[count][1]


def _volume(bucket: Bucket) -> tuple[int, int, int]:
    """Of one image; pixels first, then boxes, then the height, so that two buckets never tie by chance."""
    return bucket.height * bucket.width, bucket.boxes or 0, bucket.height


def _shape(bucket: Bucket) -> str:
    return f"{bucket.height}x{bucket.width}" + (f" with {bucket.boxes} boxes" if bucket.boxes else "")
