"""Which format a data set has, and its entries, whichever that is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hindsight.datasets.coco import read_coco
from hindsight.datasets.problems import DatasetError, Problem
from hindsight.datasets.records import RawImage
from hindsight.datasets.voc import is_voc_folder, read_voc
from hindsight.datasets.yolo import read_yolo
from hindsight.datasets.yolo_set import is_yolo, open_yolo

DataFormat = Literal["coco", "voc", "yolo"]
_MOST_NAMED = 5


def format_of(path: Path) -> DataFormat:
    """What the data set at `path` is. Raises DatasetError where there is none."""
    if is_voc_folder(path):
        return "voc"
    if is_yolo(path):
        return "yolo"
    if path.is_file():
        return "coco"
    if not path.is_dir():
        raise DatasetError(f"{path}: no such file or folder")
    files = sorted(file.name for file in path.glob("*.json"))
    named = f" (in this folder: {', '.join(files[:_MOST_NAMED])})" if files else ""
    raise DatasetError(
        f"{path}: expected a Pascal VOC folder (Annotations/, JPEGImages/), a YOLO folder (data.yaml or "
        f"classes.txt) or a COCO .json file{named}"
    )


def default_split(path: Path, wanted: str) -> str | None:
    """`wanted` where the data set at `path` is divided into splits, None where it is one piece.

    Raises DatasetError where there is no data set.
    """
    kind = format_of(path)
    if kind == "voc" or (kind == "yolo" and open_yolo(path).splits):
        return wanted
    return None


def read_annotations(
    path: Path, images: Path | None, split: str | None, problems: list[Problem]
) -> tuple[list[RawImage], list[str]]:
    """Every image of the split, or of the whole set without one, and the class names in label order; bad
    entries are appended to `problems`.

    VOC: the names that occur, sorted; COCO: by category id; YOLO: as listed. `images`: the image folder,
    where it is not in its usual place. Raises DatasetError where the set as a whole cannot be used.
    """
    kind = format_of(path)
    if kind == "yolo":
        found = read_yolo(path, images, split, problems)
    elif kind == "coco":
        found = read_coco(path, images, split, problems)
    else:
        raw_images = read_voc(path, split, images, problems)
        found = raw_images, sorted({box.class_name for raw in raw_images for box in raw.boxes})
    if images is not None and not images.is_dir():
        raise DatasetError(f"{images}: no such image folder")
    return found
