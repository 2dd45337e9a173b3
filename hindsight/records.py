"""From JSON back to Detections: records that a server answered, or that somebody has stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.detections import Detections

__all__ = ["detections_from_json", "detections_from_records"]

_MOST_CLASSES = 100_000  # as in a manifest


def detections_from_json(
    document: Mapping[str, Any] | str | bytes, class_names: Sequence[str] | None
) -> Detections:
    """Detections.from_json."""
    if isinstance(document, str | bytes | bytearray):
        document = json.loads(document)
    if not isinstance(document, Mapping) or "detections" not in document:
        raise ValueError('expected the answer for one image, {"image": ..., "detections": [...]}')
    try:
        image = document["image"]
        hw = int(image["height"]), int(image["width"])
    except (KeyError, TypeError, ValueError):
        raise ValueError('expected "image": {"width": ..., "height": ...}') from None
    return Detections.from_records(document["detections"], class_names, hw)


@contextmanager
def _refusing() -> Iterator[None]:
    """Of records that are none, whatever goes wrong is a ValueError."""
    try:
        yield
    except (KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a list of detections ({type(error).__name__}: {error})") from None


@_refusing()
def detections_from_records(
    records: Sequence[Mapping[str, Any]],
    class_names: Sequence[str] | None,
    image_hw: tuple[int, int],
    has_localization: bool | None = None,
    has_masks: bool | None = None,
) -> Detections:
    """Detections.from_records."""
    rows = list(records)
    names = tuple(class_names) if class_names is not None else _names_in(rows)
    labels = [int(record["label_id"]) for record in rows]
    for label, record in zip(labels, rows, strict=True):
        if not 0 <= label < len(names) or names[label] != record["label"]:
            raise ValueError(f"label {label} {record['label']!r} is none of the classes {', '.join(names)}")

    def numbers(key: str) -> NDArray[np.float32]:
        return np.array([record[key] for record in rows], np.float32)

    def judged(key: str) -> NDArray[np.float32] | None:
        # Without a localization head every row has null; a head without purity has null there alone.
        if has_localization is False or any(record[key] is None for record in rows):
            return None
        return numbers(key)

    masked = has_masks if has_masks is not None and not rows else _has_masks(rows)
    return Detections(
        np.array([record["box"] for record in rows], np.float32).reshape(-1, 4),
        np.array(labels, np.int64),
        numbers("score"),
        numbers("class_score"),
        judged("iou"),
        judged("purity"),
        judged("integrity"),
        names,
        image_hw,
        segmentations=tuple(dict(record["segmentation"]) for record in rows) if masked else None,
    )


def _has_masks(records: list[Mapping[str, Any]]) -> bool:
    return bool(records) and "segmentation" in records[0]


def _names_in(records: list[Mapping[str, Any]]) -> tuple[str, ...]:
    named = {int(record["label_id"]): str(record["label"]) for record in records}
    most = max(named, default=-1)
    if most >= _MOST_CLASSES:
        raise ValueError(f"label_id {most} is past any model's classes")
    return tuple(named.get(label, f"class {label}") for label in range(most + 1))
