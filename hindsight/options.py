"""The choices of one detection, checked once, before any work is done for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from operator import index
from typing import Any, SupportsIndex

from hindsight.errors import OptionError
from hindsight.hints import did_you_mean
from hindsight.manifest import Manifest

__all__ = ["DetectOptions"]

_TILES = ("tile", "overlap", "whole")  # options of the same callers that hindsight.tiling reads


@dataclass(frozen=True)
class DetectOptions:
    """class_threshold: least class score, before fusion (DIR's `a`). score_threshold: least reported score.
    iou_weight: w of score = class^(1-w) * iou^w; .5 is DIR's geometric mean, 0 the class score alone.
    nms_threshold: IoU above which the weaker of two boxes of a class goes. classes: names to keep, None for
    all. max_detections: most boxes to answer, None for the model's own limit.
    """

    class_threshold: float
    score_threshold: float
    iou_weight: float
    nms_threshold: float
    classes: tuple[str, ...] | None = None
    max_detections: int | None = None

    @classmethod
    def resolve(cls, manifest: Manifest, passes: int = 1, /, **overrides: Any) -> DetectOptions:
        """The model's defaults with `overrides` in their place; an override of None means the default.
        passes: of the model, at most, that one answer is made of; each may find the model's own limit.

        Raises OptionError naming the field, the range and the value.
        """
        known = [field.name for field in fields(cls)]
        for name in overrides:
            if name not in known:
                every = [*known, *_TILES]
                raise OptionError(
                    f"unknown option {name!r}{did_you_mean(name, every)}; options are {', '.join(every)}"
                )
        given = {name: value for name, value in overrides.items() if value is not None}
        defaults = manifest.defaults
        return cls(
            class_threshold=_unit("class_threshold", given.get("class_threshold", defaults.class_threshold)),
            score_threshold=_unit("score_threshold", given.get("score_threshold", defaults.score_threshold)),
            iou_weight=_unit("iou_weight", given.get("iou_weight", defaults.iou_weight)),
            nms_threshold=_unit(
                "nms_threshold", given.get("nms_threshold", defaults.nms_threshold), zero=False
            ),
            classes=_classes(given.get("classes"), manifest.class_names),
            max_detections=_count(given.get("max_detections"), passes * manifest.max_detections),
        )


def _unit(name: str, value: object, *, zero: bool = True) -> float:
    number: float | None = None
    if isinstance(value, str) or (hasattr(value, "__float__") and not isinstance(value, bool)):
        try:
            number = float(value)  # whatever has __float__: numpy scalars too
        except (TypeError, ValueError):
            number = None
    if number is None or not math.isfinite(number) or not (0 <= number <= 1) or (number == 0 and not zero):
        span = "in 0..1" if zero else "above 0, up to 1"
        raise OptionError(f"{name} must be a number {span}, got {value!r}")
    return number


def _classes(value: object, class_names: tuple[str, ...]) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else None
    if not names:
        raise OptionError(f"classes must name at least one of {', '.join(class_names)}, got {value!r}")
    for name in names:
        if name not in class_names:
            raise OptionError(
                f"classes: this model knows no {str(name)[:64]!r}{did_you_mean(str(name), class_names)}; "
                f"it knows {', '.join(class_names)}"
            )
    return tuple(dict.fromkeys(names))


def _count(value: object, most: int) -> int | None:
    if value is None:
        return None
    # __index__ marks whole numbers of every kind, numpy's too; bool has it as well.
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or not 1 <= index(value) <= most:
        raise OptionError(f"max_detections must be a whole number in 1..{most}, got {value!r}")
    return index(value)
