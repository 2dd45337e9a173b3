"""The data set under audit: every readable annotation with its number and its place in the files.

n: annotations of an image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hindsight.audit.classes import NOT_JUDGED
from hindsight.datasets import DatasetError, Problem, RawImage, check_image, format_of, read_annotations
from hindsight.datasets.source import DataFormat
from hindsight.datasets.yolo_set import YAML_SUFFIXES

__all__ = ["AuditImage", "AuditSet", "open_audit_set", "read_set", "set_name"]


@dataclass(frozen=True, eq=False)
class AuditImage:
    """An image and its annotations.

    name: of the file, as the data set calls it. boxes: float32 [n, 4] xyxy, original pixels. classes: int64
    [n], the data set's. labels: int64 [n], the model's, NOT_JUDGED for classes left out and for crowds. ids:
    int64 [n], unique in the set. raw: as read, for the place of an annotation; rows: int64 [n], into
    raw.boxes.
    """

    image_id: int
    path: Path
    name: str
    image_hw: tuple[int, int]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    raw: RawImage
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)

    def place(self, row: int) -> tuple[Path, int | None, str]:
        """The file, the line and the entry of an annotation, for whoever mends it."""
        box = self.raw.boxes[int(self.rows[row])]
        return self.raw.source, box.line(), box.entry

    @cached_property
    def signature(self) -> str:
        """Changes with whatever the model would see: the file (by its size and time of change) and the boxes.

        Raises OSError where the file is gone.
        """
        status = os.stat(self.path)
        digest = hashlib.blake2b(digest_size=12)
        known = f"{self.name}\0{status.st_size}\0{status.st_mtime_ns}\0"
        digest.update(known.encode("utf-8", "backslashreplace"))  # a file's name need not be text
        digest.update(np.ascontiguousarray(self.boxes).tobytes())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class AuditSet:
    """path: as it was given. labels: the model's label of each class. bad_images: what cannot be looked at.
    bad_entries: annotations that cannot be read; wrong labels, too.
    """

    path: Path
    format: DataFormat
    split: str | None
    class_names: tuple[str, ...]
    labels: tuple[int, ...]
    images: tuple[AuditImage, ...]
    bad_images: tuple[Problem, ...]
    bad_entries: tuple[Problem, ...]

    @property
    def name(self) -> str:
        """As `set_name` has it."""
        return set_name(self.path)

    @property
    def annotation_count(self) -> int:
        """Of those that can be read."""
        return sum(len(image) for image in self.images)

    def data_class(self, label: int) -> int:
        """The first class of the data set that is the model's `label`."""
        return self.labels.index(label)


def set_name(path: Path) -> str:
    """What a person calls it: its folder's name (of a data.yaml too), or its COCO file's stem."""
    resolved = path.resolve()
    if resolved.is_dir():
        return resolved.name
    return resolved.parent.name if resolved.suffix.lower() in YAML_SUFFIXES else resolved.stem


def read_set(
    path: Path, *, images: Path | None = None, split: str | None = None
) -> tuple[DataFormat, list[RawImage], list[str], list[Problem]]:
    """Format, images, class names and problems of the data set. Raises DatasetError."""
    problems: list[Problem] = []
    raw_images, names = read_annotations(path, images, split, problems)
    if not raw_images:
        raise DatasetError(f"{path}: no image" + (f"; the first problem: {problems[0]}" if problems else ""))
    return format_of(path), raw_images, names, problems


def open_audit_set(
    path: Path,
    kind: DataFormat,
    split: str | None,
    raw_images: Sequence[RawImage],
    class_names: Sequence[str],
    labels: Sequence[int],
    problems: Sequence[Problem],
) -> AuditSet:
    """The set that `read_set` gave, checked, its classes mapped by `labels` (see classes.map_classes).

    Annotations without ids of their own (VOC, YOLO) are numbered from 1 in the order they are read. Raises
    DatasetError where no image is left.
    """
    class_index = {name: index for index, name in enumerate(class_names)}
    bad_images: list[Problem] = []
    bad_entries: list[Problem] = list(problems)
    found: list[AuditImage] = []
    root = path if path.is_dir() else path.parent
    number = 0
    for raw in raw_images:
        own: list[Problem] = []
        record = check_image(raw, class_index, own)
        first, number = number + 1, number + len(raw.boxes)
        if record is None:
            bad_images.extend(own)
            continue
        bad_entries.extend(own)
        ids = [
            first + row if (given := raw.boxes[row].annotation_id) is None else given
            for row in record.raw_rows.tolist()
        ]
        model_labels = np.array([labels[own_class] for own_class in record.labels.tolist()], np.int64)
        model_labels[record.crowd] = NOT_JUDGED
        found.append(
            AuditImage(
                record.image_id,
                record.path,
                _relative(record.path, root),
                record.image_hw,
                record.boxes,
                record.labels,
                model_labels,
                np.array(ids, np.int64),
                raw,
                record.raw_rows,
            )
        )
    if not found:
        raise DatasetError(f"{path}: no usable image; the first problem: {(bad_images + bad_entries)[0]}")
    return AuditSet(
        path,
        kind,
        split,
        tuple(class_names),
        tuple(labels),
        tuple(found),
        tuple(bad_images),
        tuple(bad_entries),
    )


def _relative(path: Path, root: Path) -> str:
    try:
        return path.relative_to(root).as_posix()
    except ValueError:  # images elsewhere, by --images or data.yaml
        return path.as_posix()
