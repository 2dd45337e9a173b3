"""Annotated boxes by image name: a COCO file or a folder of Pascal VOC files, just enough to measure AP.

`hindsight evaluate` reads data sets for training and finds every fault in them; here a file that cannot be
used ends the comparison.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from export.average_precision import Objects
from hindsight.errors import OptionError

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
Row = tuple[str, list[float], bool]  # class name, xyxy, crowd


def read_annotations(path: Path, names: Sequence[str], class_names: Sequence[str]) -> list[Objects]:
    """The objects of each image of `names` (file names without folder), in that order, in original pixels.

    Objects of classes that `class_names` lacks are left out: no such model can find them. Raises OptionError.
    """
    rows = _voc(path, names) if path.is_dir() else _coco(path, names)
    known = {name: label for label, name in enumerate(class_names)}
    if not any(row[0] in known for image in rows for row in image):
        raise OptionError(
            f"--annotations {path}: no object of a class of this model in these images; "
            f"it knows {', '.join(class_names)}"
        )
    return [_objects([row for row in image if row[0] in known], known) for image in rows]


def _objects(rows: Sequence[Row], known: dict[str, int]) -> Objects:
    return Objects(
        np.array([box for _, box, _ in rows], np.float64).reshape(-1, 4),
        np.array([known[name] for name, _, _ in rows], np.int64),
        np.array([crowd for _, _, crowd in rows], bool),
    )


def _coco(path: Path, names: Sequence[str]) -> list[list[Row]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        categories = {entry["id"]: str(entry["name"]) for entry in document["categories"]}
        of_name: dict[str, int] = {Path(e["file_name"]).name: e["id"] for e in document["images"]}
        by_image: dict[int, list[Row]] = {key: [] for key in of_name.values()}
        for entry in document["annotations"]:
            x, y, width, height = (float(value) for value in entry["bbox"])
            if entry["image_id"] in by_image:
                row = (
                    categories[entry["category_id"]],
                    [x, y, x + width, y + height],
                    bool(entry.get("iscrowd")),
                )
                by_image[entry["image_id"]].append(row)
    except OSError as error:
        raise OptionError(f"--annotations {path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OptionError(
            f"--annotations {path}: not a COCO file with images, annotations and categories "
            f"({type(error).__name__}: {error})"
        ) from error
    missing = [name for name in names if name not in of_name]
    if missing:
        raise OptionError(f"--annotations {path}: lists no image {missing[0]!r} ({len(missing)} are missing)")
    return [by_image[of_name[name]] for name in names]


def _voc(path: Path, names: Sequence[str]) -> list[list[Row]]:
    folder = path / "Annotations" if (path / "Annotations").is_dir() else path
    return [_voc_file(folder / f"{Path(name).stem}.xml") for name in names]


def _voc_file(file: Path) -> list[Row]:
    """VOC counts pixels from 1, both ends included: 1 is taken from the minima."""
    try:
        root = ElementTree.parse(file).getroot()
        return [_voc_object(entry) for entry in root.iter("object")]
    except OSError as error:
        raise OptionError(f"--annotations: {file} cannot be read ({error.strerror})") from error
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise OptionError(f"--annotations: {file} is not a Pascal VOC file ({error})") from error


def _voc_object(entry: Any) -> Row:
    name, box = entry.findtext("name"), entry.find("bndbox")
    if not name or box is None:
        raise ValueError("an object without a name or bndbox")
    x1, y1, x2, y2 = (float(box.findtext(corner)) for corner in _CORNERS)
    return name.strip(), [x1 - 1, y1 - 1, x2, y2], (entry.findtext("difficult") or "0").strip() == "1"
