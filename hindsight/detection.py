"""One box of Detections."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Detection"]


@dataclass(frozen=True, slots=True)
class Detection:
    """A row of Detections as Python's own numbers, not rounded; named as in `to_records`.

    box: x1, y1, x2, y2 in pixels of the original image. label: the class's name; label_id: its place in
    class_names. iou, purity, integrity: None where the model has no localization head.
    """

    box: tuple[float, float, float, float]
    label: str
    label_id: int
    score: float
    class_score: float
    iou: float | None
    purity: float | None
    integrity: float | None
