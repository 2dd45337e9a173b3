"""How long a batch will take, learned from those that ran: sizes CPU batches, and
tells admission how long the queue is in seconds.
"""

from hindsight.manifest import ResizeRule
from service.worker import blank_input

_WEIGHT = 0.3  # of the newest measurement in the running mean
_UNKNOWN_SECONDS = 0.1

ShapeKey = tuple[str, str, tuple[int, int]]
"""(model, operation, padded height and width)."""


class ServiceTimes:
    """Running means of seconds per image, by (model, operation, padded shape); unseen shapes scale a seen one
    by pixels.
    """

    def __init__(self) -> None:
        self._seconds: dict[ShapeKey, float] = {}
        self._per_pixel: dict[tuple[str, str], float] = {}
        self._any_shape: dict[tuple[str, str], float] = {}

    def seed(self, model: str, rule: ResizeRule, seconds: float) -> None:
        """The worker's warm-up took `seconds` for one image of the rule's usual size."""
        height, width = blank_input(rule)[0].shape[1:3]
        for operation in ("detect", "rescore"):
            self.observe((model, operation, (height, width)), 1, seconds)

    def observe(self, key: ShapeKey, images: int, seconds: float) -> None:
        """A batch of `images` occupied its engine for `seconds`."""
        model, operation, (height, width) = key
        each = seconds / images
        self._seconds[key] = _mean(self._seconds.get(key), each)
        self._any_shape[model, operation] = _mean(self._any_shape.get((model, operation)), each)
        per_pixel = each / (height * width)
        self._per_pixel[model, operation] = _mean(self._per_pixel.get((model, operation)), per_pixel)

    def seconds(self, key: ShapeKey) -> float:
        """Expected seconds for one image."""
        model, operation, (height, width) = key
        known = self._seconds.get(key)
        if known is not None:
            return known
        per_pixel = self._per_pixel.get((model, operation))
        return _UNKNOWN_SECONDS if per_pixel is None else per_pixel * height * width

    def before_decoding(self, model: str | None = None, operation: str = "detect") -> float:
        """Expected seconds for one image whose shape nobody knows yet; without a model, of the slowest."""
        known = self._any_shape.get((model, operation)) if model is not None else None
        return known if known is not None else max(self._any_shape.values(), default=_UNKNOWN_SECONDS)


def _mean(old: float | None, new: float) -> float:
    return new if old is None else (1 - _WEIGHT) * old + _WEIGHT * new
