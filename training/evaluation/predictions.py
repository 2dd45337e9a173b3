"""What a detector answered for one image, in the form all evaluation starts from.

n: detections. Boxes are xyxy in pixels of the original image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.evaluation.masks import Segmentation

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class ImagePredictions:
    """Kept detections, best score first; the three qualities are None for a detector without a localization
    head.
    """

    image_id: int
    boxes: FloatArray  # [n, 4]
    labels: NDArray[np.int64]  # [n]
    scores: FloatArray  # [n], the ranking: class score and predicted IoU fused
    class_scores: FloatArray  # [n]
    ious: FloatArray | None = None  # [n]
    purities: FloatArray | None = None  # [n]
    integrities: FloatArray | None = None  # [n]
    masks: tuple[Segmentation, ...] | None = None  # n, of the whole image; None where none were asked for

    def __len__(self) -> int:
        return len(self.labels)
