"""COCO detection JSON: images, annotations (bbox xywh, iscrowd), categories with any ids.

Labels number the categories in the order of their ids, so non-contiguous ids (COCO's 1..90 for 80 classes)
are fine.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from hindsight.datasets.problems import DatasetError, Problem
from hindsight.datasets.records import RawBox, RawImage


def read_coco(
    path: Path, images: Path | None, split: str | None, problems: list[Problem]
) -> tuple[list[RawImage], list[str]]:
    """Every image entry of the file and the category names in id order.

    Raises DatasetError where the file as a whole cannot be used: broken JSON, a section missing, a split
    asked for.
    """
    if split is not None:
        raise DatasetError(
            f"{path}: a COCO file is one split already; leave --split {split!r} away or name another file"
        )
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise DatasetError(
            f"{path}:{error.lineno}: broken JSON: {error.msg} (column {error.colno})"
        ) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON: {error}") from error
    for section in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(section), list):
            raise DatasetError(f"{path}: expected a COCO file with the list {section!r}")

    lines = _Lines(text)
    names = _category_names(path, document["categories"], lines, problems)
    raw_images = _read_images(path, document["images"], images or _image_folder(path), lines, problems)
    _read_annotations(path, document["annotations"], names, raw_images, lines, problems)
    return list(raw_images.values()), [names[key] for key in sorted(names)]


def _image_folder(path: Path) -> Path:
    """Images lie in `images` beside the file, else in ../SPLIT as COCO has it, else beside it."""
    beside = path.parent / "images"
    if beside.is_dir():
        return beside
    split = path.parent.parent / path.stem.rsplit("_", 1)[-1]  # annotations/instances_val2017.json -> val2017
    return split if split.is_dir() else path.parent


def _category_names(path: Path, entries: list[Any], lines: _Lines, problems: list[Problem]) -> dict[int, str]:
    names: dict[int, str] = {}
    for index, entry in enumerate(entries):
        key, name = _get(entry, "id"), _get(entry, "name")
        if not _is_int(key) or not isinstance(name, str) or not name:
            message = f"category {index + 1} in the list: expected an integer id and a name"
        elif key in names:
            message = f"category {key}: the id is used twice"
        elif name in names.values():
            message = f"category {key}: the name {name!r} is used twice"
        else:
            names[key] = name
            continue
        problems.append(Problem(path, lines.of("categories", index), message))
    return names


def _read_images(
    path: Path, entries: list[Any], folder: Path, lines: _Lines, problems: list[Problem]
) -> dict[int, RawImage]:
    raw_images: dict[int, RawImage] = {}
    for index, entry in enumerate(entries):
        key, name = _get(entry, "id"), _get(entry, "file_name")
        width, height = _get(entry, "width"), _get(entry, "height")
        if not _is_int(key) or not isinstance(name, str) or not name:
            message = f"image {index + 1} in the list: expected an integer id and a file_name"
        elif key in raw_images:
            message = f"image {key}: the id is used twice (first by {raw_images[key].path.name})"
        elif (width is None) != (height is None) or not all(v is None or _is_int(v) for v in (width, height)):
            message = f"image {key}: width and height are {width!r} and {height!r}, expected integers"
        else:
            size = None if width is None else (width, height)
            line = partial(lines.of, "images", index)
            raw_images[key] = RawImage(folder / name, key, path, line, f"image {key}", size)
            continue
        problems.append(Problem(path, lines.of("images", index), message))
    return raw_images


def _read_annotations(
    path: Path,
    entries: list[Any],
    names: dict[int, str],
    raw_images: dict[int, RawImage],
    lines: _Lines,
    problems: list[Problem],
) -> None:
    """Hands every readable annotation to its image."""
    seen: set[int] = set()
    for index, entry in enumerate(entries):
        key = _get(entry, "id")
        label = f"annotation {key}" if _is_int(key) else f"annotation {index + 1} in the list"
        line = partial(lines.of, "annotations", index)
        fault = _annotation_fault(entry, seen, names, raw_images)
        if _is_int(key):
            seen.add(key)  # of a bad one too: an id means the first entry that has it
        if fault is not None:
            problems.append(Problem(path, line(), f"{label}: {fault}"))
            continue
        x, y, w, h = (float(value) for value in entry["bbox"])
        area = entry.get("area")
        box = RawBox(
            xyxy=(x, y, x + w, y + h),
            class_name=names[entry["category_id"]],
            crowd=bool(entry.get("iscrowd", 0)),
            area=None if area is None else float(area),
            line=line,
            entry=label,
            segmentation=entry.get("segmentation"),
            annotation_id=key,
        )
        raw_images[entry["image_id"]].boxes.append(box)


def _annotation_fault(
    entry: Any, seen: set[int], names: dict[int, str], raw_images: dict[int, RawImage]
) -> str | None:
    key, image_id, category = _get(entry, "id"), _get(entry, "image_id"), _get(entry, "category_id")
    box, area = _get(entry, "bbox"), _get(entry, "area")
    if not _is_int(key):
        return f"id is {key!r}, expected an integer"
    if key in seen:
        return "the id is used twice"
    if not _is_int(image_id) or image_id not in raw_images:
        return f"image_id {image_id!r} is not among the images"
    if not _is_int(category) or category not in names:
        return f"unknown class: category_id {category!r} is not among the categories"
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        return f"bbox is {box!r}, expected [x, y, width, height]"
    if area is not None and not _is_number(area):
        return f"area is {area!r}, expected a number"
    return None


def _get(entry: Any, key: str) -> Any:
    return entry.get(key) if isinstance(entry, dict) else None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Lines:
    """Line numbers of list entries, found by scanning the text again: only a bad file pays for it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._found: dict[str, list[int]] = {}

    def of(self, section: str, index: int) -> int | None:
        """The 1-based line where entry `index` of the list begins; None where the scan misses it."""
        if section not in self._found:
            self._found[section] = self._scan(section)
        lines = self._found[section]
        return lines[index] if index < len(lines) else None

    def _scan(self, section: str) -> list[int]:
        text, decoder, space = self._text, json.JSONDecoder(), re.compile(r"[\s,]*")
        start = re.search(rf'"{section}"\s*:\s*\[', text)
        if start is None:
            return []
        lines: list[int] = []
        position, line, counted = start.end(), 1, 0
        while True:
            gap = space.match(text, position)
            position = gap.end() if gap else position
            if text[position] == "]":
                return lines
            line += text.count("\n", counted, position)
            counted = position
            lines.append(line)
            _, position = decoder.raw_decode(text, position)
