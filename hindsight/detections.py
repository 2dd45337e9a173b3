"""What a detector answers: plain frozen records of numpy arrays, row i of each describing the same box.

n: boxes. C: classes. m: side of a mask. Boxes are xyxy in pixels of the original image; every score is in
0..1.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hindsight.detection import Detection
from hindsight.formats import coco_annotation, labelstudio_prediction, yolo_lines
from hindsight.masks import decode_mask, encode_mask, paste_mask
from hindsight.picture import ImageLike, Picture

if TYPE_CHECKING:
    import supervision
    from PIL import Image

FloatArray = NDArray[np.float32]
_DECIMALS = 6  # of a score in JSON: float32 has no more to tell


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The boxes found in one image, best score first: columns, and a sequence of Detection.

    boxes: float32 [n, 4]. labels: int64 [n], indices into class_names. scores: float32 [n], the ranking,
    class score and IoU fused. class_scores: float32 [n], the classifier's alone. ious, purities, integrities:
    float32 [n], what the model thinks of its own box (DIR Eq. (1), (3), (4)); None where it has no
    localization head. image_hw: height and width of the original image. masks: float32 [n, m, m], how likely
    each cell of the box belongs to the object; None where the model has no masks, or where only their
    outlines have come over a wire: segmentations, n of COCO's run-length codes. picture: the way back to the
    image, which is not kept alive by it.
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
    segmentations: tuple[dict[str, Any], ...] | None = None
    picture: Picture | None = None

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
        if self.segmentations is not None and len(self.segmentations) != n:
            raise ValueError(f"expected {n} segmentations, got {len(self.segmentations)}")

    @classmethod
    def from_records(
        cls,
        records: Sequence[Mapping[str, Any]],
        class_names: Sequence[str] | None,
        image_hw: tuple[int, int],
        *,
        has_localization: bool | None = None,
        has_masks: bool | None = None,
    ) -> Detections:
        """What `to_records` was called on; its numbers are those of the records, which are rounded.

        class_names: None takes them from the records, with `class 3` for one that no box has. The last two
        say which columns there are; None goes by the records, and where there are none, has all numbers and
        no masks. Raises ValueError for what are no such records.
        """
        from hindsight.records import detections_from_records

        return detections_from_records(records, class_names, image_hw, has_localization, has_masks)

    @classmethod
    def from_json(
        cls, document: Mapping[str, Any] | str | bytes, class_names: Sequence[str] | None = None
    ) -> Detections:
        """An answer of POST /detect for one image, or a line of `hindsight detect --json`: the text, or what
        JSON made of it. Raises ValueError.
        """
        from hindsight.records import detections_from_json

        return detections_from_json(document, class_names)

    def __repr__(self) -> str:
        height, width = self.image_hw
        counts = ", ".join(f"{name} {count}" for name, count in Counter(self.names).most_common())
        return f"<Detections: {len(self)} in {width} x {height}{': ' if counts else ''}{counts}>"

    def _repr_html_(self) -> str:
        from hindsight.notebook import html_of

        return html_of(self)

    def _repr_jpeg_(self) -> bytes | None:
        from hindsight.notebook import jpeg_of

        return jpeg_of(self)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Detection]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: SupportsIndex) -> Detection:
        """One box; `select` takes several."""
        try:
            index = operator.index(row)
        except TypeError:
            raise TypeError(f"expected a row's number, got {row!r}; select() takes several rows") from None
        if not -len(self) <= index < len(self):
            raise IndexError(f"no row {index}: there are {len(self)}")
        x1, y1, x2, y2 = self.boxes[index].tolist()
        label = int(self.labels[index])
        return Detection(
            (x1, y1, x2, y2),
            self.class_names[label],
            label,
            float(self.scores[index]),
            float(self.class_scores[index]),
            *(
                None if column is None else float(column[index])
                for column in (self.ious, self.purities, self.integrities)
            ),
        )

    def select(self, mask_or_indices: ArrayLike) -> Detections:
        """The rows of a boolean mask [n] or of integer indices, in the order given."""
        index = np.asarray(mask_or_indices)
        if index.size == 0 and index.dtype != np.bool_:
            index = index.astype(np.int64)  # an empty list would otherwise be a list of floats

        def rows(column: FloatArray | None) -> FloatArray | None:
            return None if column is None else column[index]

        chosen = np.arange(len(self))[index]
        codes = self.segmentations
        return dataclasses.replace(
            self,
            boxes=self.boxes[index],
            labels=self.labels[index],
            scores=self.scores[index],
            class_scores=self.class_scores[index],
            ious=rows(self.ious),
            purities=rows(self.purities),
            integrities=rows(self.integrities),
            masks=rows(self.masks),
            segmentations=None if codes is None else tuple(codes[row] for row in chosen),
        )

    def with_image(self, image: ImageLike, *, keep: bool = True) -> Detections:
        """These detections with `image` as the one they are drawn on. keep=False: as long as it lives."""
        return dataclasses.replace(self, picture=Picture(image, keep=keep))

    @property
    def names(self) -> tuple[str, ...]:
        """The class name of each row."""
        return tuple(self.class_names[label] for label in self.labels)

    @property
    def image(self) -> NDArray[np.uint8] | None:
        """The image, uint8 [H, W, 3] RGB, read anew at each call; None where it is not known or gone."""
        from hindsight.notebook import image_of

        return image_of(self)

    @property
    def has_masks(self) -> bool:
        """Whether there are `masks` or `segmentations`."""
        return self.masks is not None or self.segmentations is not None

    def bitmap(self, row: int) -> NDArray[np.bool_]:
        """The object's pixels in the image: bool [H, W]. Raises ValueError where there are no masks."""
        if self.masks is not None:
            return paste_mask(self.masks[row], self.boxes[row], self.image_hw)
        if self.segmentations is None:
            raise ValueError("these detections have no masks")
        code = self.segmentations[row]
        if list(code.get("size", ())) != list(self.image_hw):
            raise ValueError(f"expected a mask of size {list(self.image_hw)}, got {code.get('size')}")
        return decode_mask(code)

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

    def to_coco(self, *, image_id: int = 0, start_id: int = 1) -> list[dict[str, Any]]:
        """Entries of a COCO document's `annotations`, with ids from `start_id` on; bbox is [x, y, w, h] and
        category_id the label's place in class_names plus 1. The second opinion rides along as extra keys.
        """
        return [
            {"id": start_id + place, "image_id": image_id, **coco_annotation(record)}
            for place, record in enumerate(self.to_records())
        ]

    def to_yolo(self, *, scores: bool = True) -> str:
        """One line a box: class id, centre x, centre y, width, height (each relative to the image), score.

        scores=False leaves the last out: labels for a training; Ultralytics' refuses a sixth number.
        """
        height, width = self.image_hw
        return yolo_lines(self.to_records(), width, height, scores=scores)

    def to_label_studio(
        self, *, model_version: str = "", from_name: str = "label", to_name: str = "image"
    ) -> dict[str, Any]:
        """A Label Studio prediction for <RectangleLabels name=from_name toName=to_name>."""
        height, width = self.image_hw
        return labelstudio_prediction(
            self.to_records(),
            width,
            height,
            model_version=model_version,
            from_name=from_name,
            to_name=to_name,
        )

    def to_supervision(self) -> supervision.Detections:
        """As supervision's Detections: xyxy, class_id, confidence (= scores), mask where there are masks, and
        in data the columns class_name, class_score, iou, purity, integrity (the last three where the model
        has them). Raises ImportError where supervision is not installed.
        """
        from hindsight.interop import to_supervision

        return to_supervision(self)

    def plot(self, image: ImageLike | None = None) -> Image.Image:
        """A copy of the image with each box in its class's colour: label, score and predicted IoU.

        image: needed where the detections do not know theirs any more. Raises ImageError where they do not
        and none is given, or where it has another size.
        """
        from hindsight.notebook import plot

        return plot(self, image)

    def _segmentation(self, row: int) -> dict[str, Any]:
        if self.segmentations is not None:
            return {"segmentation": self.segmentations[row]}
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
