"""What a detector answers: plain frozen records of numpy arrays, row i of each describing the same box.

n: boxes. C: classes. m: side of a mask. Boxes are xyxy in pixels of the original image; every score is in
0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hindsight.masks import encode_mask

FloatArray = NDArray[np.float32]
_DECIMALS = 6  # of a score in JSON: float32 has no more to tell


@dataclass(frozen=True, eq=False)
class Detections:
    """The boxes found in one image, best score first.

    boxes: float32 [n, 4]. labels: int64 [n], indices into class_names. scores: float32 [n], the ranking,
    class score and IoU fused. class_scores: float32 [n], the classifier's alone. ious, purities, integrities:
    float32 [n], what the model thinks of its own box (DIR Eq. (1), (3), (4)); None where it has no
    localization head. image_hw: height and width of the original image. masks: float32 [n, m, m], how likely
    each cell of the box belongs to the object; None where the model has no masks.
    """

    boxes: FloatArray
    labels: NDArray[np.int64]
    scores: FloatArray
    class_scores: FloatArray
    ious: FloatArray | None
    purities: FloatArray | None
    integrities: FloatArray | None
    class_names: tuple[str, ...]
    image_hw: tuple[int, int]
    masks: FloatArray | None = None

    def __post_init__(self) -> None:
        n = len(self.labels)
        if self.boxes.shape != (n, 4):
            raise ValueError(f"expected boxes [{n}, 4], got {list(self.boxes.shape)}")
        for name in ("labels", "scores", "class_scores", "ious", "purities", "integrities"):
            column = getattr(self, name)
            if column is not None and column.shape != (n,):
                raise ValueError(f"expected {name} [{n}], got {list(column.shape)}")
        if self.masks is not None and (self.masks.ndim != 3 or len(self.masks) != n):
            raise ValueError(f"expected masks [{n}, m, m], got {list(self.masks.shape)}")

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, mask_or_indices: ArrayLike) -> Detections:
        """The rows of a boolean mask [n] or of integer indices, in the order given."""
        index = np.asarray(mask_or_indices)
        if index.size == 0 and index.dtype != np.bool_:
            index = index.astype(np.int64)  # an empty list would otherwise be a list of floats

        def rows(column: FloatArray | None) -> FloatArray | None:
            return None if column is None else column[index]

        return Detections(
            self.boxes[index],
            self.labels[index],
            self.scores[index],
            self.class_scores[index],
            rows(self.ious),
            rows(self.purities),
            rows(self.integrities),
            self.class_names,
            self.image_hw,
            rows(self.masks),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each row."""
        return tuple(self.class_names[label] for label in self.labels)

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON object a row: box, label, label_id, score, class_score, iou, purity, integrity.

        Where the model makes masks also segmentation, COCO's compressed run-length code of the image.
        """
        return [
            {
                "box": _coordinates(self.boxes[row]),
                "label": self.class_names[label],
                "label_id": int(label),
                "score": _rounded(self.scores, row),
                "class_score": _rounded(self.class_scores, row),
                "iou": _rounded(self.ious, row),
                "purity": _rounded(self.purities, row),
                "integrity": _rounded(self.integrities, row),
                **self._segmentation(row),
            }
            for row, label in enumerate(self.labels)
        ]

    def _segmentation(self, row: int) -> dict[str, Any]:
        if self.masks is None:
            return {}
        return {"segmentation": encode_mask(self.masks[row], self.boxes[row], self.image_hw)}


@dataclass(frozen=True, eq=False)
class Rescored:
    """A second opinion on given boxes, in their order. ious, purities, integrities: float32 [n], the last two
    None from a model that predicts the IoU alone; class_scores: float32 [n, C].
    """

    ious: FloatArray
    purities: FloatArray | None
    integrities: FloatArray | None
    class_scores: FloatArray
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        n, classes = len(self.ious), len(self.class_names)
        if self.class_scores.shape != (n, classes):
            raise ValueError(f"expected class_scores [{n}, {classes}], got {list(self.class_scores.shape)}")

    def __len__(self) -> int:
        return len(self.ious)

    def to_records(self) -> list[dict[str, Any]]:
        """One JSON object a box: iou, purity, integrity, label (of the best class), label_id, class_score,
        class_scores (by name).
        """
        best = self.class_scores.argmax(axis=1) if len(self) else np.zeros(0, np.int64)
        return [
            {
                "iou": _rounded(self.ious, row),
                "purity": _rounded(self.purities, row),
                "integrity": _rounded(self.integrities, row),
                "label": self.class_names[label],
                "label_id": int(label),
                "class_score": _rounded(self.class_scores[row], label),
                "class_scores": {
                    name: _rounded(self.class_scores[row], c) for c, name in enumerate(self.class_names)
                },
            }
            for row, label in enumerate(best)
        ]


def _rounded(column: FloatArray | None, row: int) -> float | None:
    return None if column is None else round(float(column[row]), _DECIMALS)


def _coordinates(box: FloatArray) -> list[float]:
    return [round(float(value), 3) for value in box]
