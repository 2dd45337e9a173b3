"""Detections as other libraries' objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hindsight.detections import Detections

if TYPE_CHECKING:
    import supervision

__all__ = ["to_supervision"]


def to_supervision(found: Detections) -> supervision.Detections:
    """Detections.to_supervision."""
    try:
        import supervision
    except ImportError as error:
        raise ImportError(f"to_supervision needs supervision ({error}): pip install supervision") from error
    columns: dict[str, NDArray[Any] | None] = {
        "class_name": np.array(found.names, dtype=np.str_),
        "class_score": found.class_scores,
        "iou": found.ious,
        "purity": found.purities,
        "integrity": found.integrities,
    }
    mask = None
    if found.has_masks:
        mask = np.zeros((len(found), *found.image_hw), np.bool_)
        for row in range(len(found)):
            mask[row] = found.bitmap(row)
    return supervision.Detections(
        # Copies: theirs may be written to.
        xyxy=found.boxes.copy(),
        mask=mask,
        confidence=found.scores.copy(),
        class_id=found.labels.copy(),
        data={name: column.copy() for name, column in columns.items() if column is not None},
    )
