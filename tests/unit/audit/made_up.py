"""What a model might say of an image, number by number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hindsight.audit.examine import Examined, Opinions, OwnBoxes

Box = tuple[float, float, float, float]


def examined(
    opinions: Sequence[tuple[float, float, float, float]],
    own: Sequence[tuple[Box, int, float]],
    *,
    labels: Sequence[int] | None = None,
    others: Sequence[float] | None = None,
    steadiness: float = 0.95,
    full: bool = False,
) -> Examined:
    """opinions: (IoU, purity, integrity, class score of the annotated class) an annotation; others: the class
    score of the next class. own: (box, label, score) each. steadiness: of every annotation.
    """
    rows = np.array(opinions, np.float32).reshape(-1, 4)
    count = len(rows)
    annotated = np.zeros(count, np.int64) if labels is None else np.array(labels, np.int64)
    scores = np.array([score for _, _, score in own], np.float32)
    return Examined(
        Opinions(
            rows[:, 0],
            rows[:, 1],
            rows[:, 2],
            np.full(count, steadiness, np.float32),
            rows[:, 3],
            np.zeros(count, np.float32) if others is None else np.array(others, np.float32),
            (annotated + 1) % 3,
        ),
        OwnBoxes(
            np.array([box for box, _, _ in own], np.float32).reshape(-1, 4),
            np.array([label for _, label, _ in own], np.int64),
            scores,
            scores,
            scores,
        ),
        full,
    )
