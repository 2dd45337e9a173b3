"""From what the model says to a verdict on each annotation, and a suspicion to rank them by.

n: annotations of an image; d: the model's own boxes in it.

Two witnesses tell how well an annotated box fits its object. The localization head looks at the pixels in
the annotated box and predicts its IoU. The detector, which has not seen the annotation, puts a box of its own
around the object; each annotation is paired with one of those, and each of those with one annotation.
Their mean is the `fit`. What speaks against the annotated class, and for there being nothing at all, lowers
it; suspicion is what is missing to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hindsight.audit.classes import NOT_JUDGED
from hindsight.audit.examine import Examined
from hindsight.audit.geometry import greedy_pairs, overlap_shares, pairwise_iou

__all__ = ["VERDICTS", "Judged", "Missing", "OwnBox", "Verdict", "judge", "missing"]

Verdict = Literal["fine", "loose", "cut", "shifted", "wrong class", "no object", "duplicate", "not judged"]
VERDICTS: tuple[Verdict, ...] = (
    "loose", "cut", "shifted", "wrong class", "no object", "duplicate", "fine", "not judged",
)  # fmt: skip
