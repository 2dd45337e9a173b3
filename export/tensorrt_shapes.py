"""Which shapes an engine is built for: batches, sides in pixels, boxes to rescore."""

from __future__ import annotations

import re
from collections.abc import Sequence

from export.errors import ExportError
from hindsight.artifact import ResizeRule
from hindsight.engines import Bucket

DEFAULT_BATCHES = (1, 8)
_MAX_BATCH = 1024
_USUAL_RATIO = (4, 3)  # of photos
_WORTH_A_PROFILE = 0.9  # of the pixels of the full input
_FEW_BOXES = 128  # to rescore: what a person or a small detector sends

Size = tuple[int, int]


def parse_batches(text: str | None) -> tuple[int, ...]:
    """From "1,8,32"; None gives the default. Raises ExportError."""
    if text is None:
        return DEFAULT_BATCHES
    words = [word.strip() for word in text.split(",")]
    if not all(re.fullmatch(r"\d{1,5}", word) and 1 <= int(word) <= _MAX_BATCH for word in words):
        raise ExportError(f"--batch must be whole numbers in 1..{_MAX_BATCH}, as in 1,8; got {text!r}")
    return tuple(sorted({int(word) for word in words}))


def parse_sizes(text: str | None, rule: ResizeRule) -> tuple[Size, ...]:
    """From "800x1344,1344x800" (height x width); None gives `default_sizes`. Raises ExportError."""
    if text is None:
        return default_sizes(rule)
    sizes = []
    for word in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,5})x(\d{1,5})\s*", word)
        if found is None:
            raise ExportError(f"--size must be HEIGHTxWIDTH in pixels, as in 800x1344; got {word!r}")
        size = int(found[1]), int(found[2])
        if any(side < 1 or side % rule.pad_multiple for side in size):
            height, width = (_padded(side, rule) for side in size)
            raise ExportError(
                f"--size must be multiples of {rule.pad_multiple}, got {size[0]}x{size[1]}: "
                f"say {height}x{width}"
            )
        sizes.append(size)
    return tuple(dict.fromkeys(sizes))


def default_sizes(rule: ResizeRule) -> tuple[Size, ...]:
    """The inputs that every image fits into, landscape and portrait, and those of a usual photo where these
    are markedly smaller.
    """
    short, long = _padded(rule.short_side, rule), _padded(rule.long_side, rule)
    usual = _padded(min(rule.long_side, rule.short_side * _USUAL_RATIO[0] // _USUAL_RATIO[1]), rule)
    longest = [usual, long] if usual < _WORTH_A_PROFILE * long else [long]
    return tuple(dict.fromkeys(size for side in longest for size in ((short, side), (side, short))))


def detection_buckets(batches: Sequence[int], sizes: Sequence[Size]) -> tuple[Bucket, ...]:
    """Every batch at every size."""
    return tuple(Bucket(batch, *size) for size in sizes for batch in batches)


def rescoring_buckets(batches: Sequence[int], sizes: Sequence[Size], max_boxes: int) -> tuple[Bucket, ...]:
    """Every batch at every size, for few boxes and for as many as the model takes."""
    counts = sorted({min(_FEW_BOXES, max_boxes), max_boxes})
    return tuple(Bucket(batch, *size, boxes=count) for size in sizes for batch in batches for count in counts)


def _padded(side: int, rule: ResizeRule) -> int:
    return max(1, -(-side // rule.pad_multiple)) * rule.pad_multiple
