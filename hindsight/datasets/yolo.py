"""YOLO folders as Ultralytics lays them out: images/ and labels/, and data.yaml or classes.txt for the names,
which yolo_set.py reads.

A label file has the name of its image and lies where "labels" takes the place of the last "images" in the
image's path (beside the image where its path has no such folder). One line an object, every value a share of
the image's width or height:

    CLASS CX CY W H                 a box
    CLASS X1 Y1 X2 Y2 X3 Y3 ...     a polygon, of which the enclosing box is taken

An image without a label file shows nothing, as Ultralytics has it.
"""

from __future__ import annotations

from pathlib import Path

from hindsight.datasets.problems import DatasetError, Problem
from hindsight.datasets.records import RawBox, RawImage
from hindsight.datasets.yolo_set import CLASSES_FILE, YoloSet, find_entry, open_yolo, pictures_in

_BOX_NUMBERS = 5
_LEAST_POLYGON = 7  # the class and three points


def read_yolo(
    path: Path, images: Path | None, split: str | None, problems: list[Problem]
) -> tuple[list[RawImage], list[str]]:
    """Every image of the split (of all splits without one) and the class names; ids count from 1, in the
    order of the files' names.

    Raises DatasetError where the set as a whole cannot be used: no names, no such split, `images` given.
    """
    if images is not None:
        raise DatasetError(f"{path}: a YOLO set says itself where its images are; leave --images away")
    opened = open_yolo(path)
    files = _image_files(opened, split, problems)
    raw_images = [
        _read_image(file, number, opened.class_names, problems) for number, file in enumerate(files, start=1)
    ]
    return raw_images, list(opened.class_names)


def label_path(image: Path) -> Path:
    """Where the labels of `image` are."""
    parts = list(image.parts[:-1])
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    return Path(*parts, f"{image.stem}.txt")


def _image_files(opened: YoloSet, split: str | None, problems: list[Problem]) -> list[Path]:
    """Each once, sorted. A folder that is missing ends it if it was asked for, else it is a problem."""
    if split is not None and split not in opened.splits:
        have = ", ".join(opened.splits) or "none: the set is one piece"
        raise DatasetError(f"{opened.file}: no split {split!r} (there are: {have})")
    entries = opened.entries(split)
    files: set[Path] = set()
    missing: list[Problem] = []
    for entry, line in entries:
        if entry.is_dir():
            files.update(pictures_in(entry))
        elif entry.is_file():
            files.update(_listed(entry, opened.root, problems))
        else:
            missing.append(Problem(opened.file, line, f"{entry} does not exist"))
    if missing and (split is not None or len(missing) == len(entries)):
        raise DatasetError(str(missing[0]))
    problems.extend(missing)
    if opened.file.name == CLASSES_FILE or all(entry.is_dir() for entry, _ in entries):
        _report_orphans(files, problems)
    return sorted(files)


def _listed(listing: Path, root: Path, problems: list[Problem]) -> list[Path]:
    """The images that a text file names, a line each."""
    try:
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{listing}: cannot be read as a list of images: {error}") from error
    files: dict[Path, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text:
            continue
        file = find_entry(text, (listing.parent, root))
        if file in files:
            problems.append(Problem(listing, number, f"{text} is listed twice (first on line {files[file]})"))
        elif not file.is_file():
            problems.append(Problem(listing, number, f"image {file} does not exist"))
        else:
            files[file] = number
    return list(files)


def _report_orphans(files: set[Path], problems: list[Problem]) -> None:
    """Label files without an image, in the folders that hold labels of `files`: a misspelt name, mostly."""
    labels = {label_path(file) for file in files}
    for folder in sorted({label.parent for label in labels}):
        if not folder.is_dir():
            continue
        for file in sorted(folder.glob("*.txt")):
            if file not in labels and file.name != CLASSES_FILE:
                problems.append(Problem(file, None, "no image has this name"))


def _read_image(path: Path, image_id: int, class_names: tuple[str, ...], problems: list[Problem]) -> RawImage:
    source = label_path(path)
    boxes: list[RawBox] = []
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines() if source.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(source, None, f"cannot be read: {error}"))
        lines = []
    for number, text in enumerate(lines, start=1):
        words = text.split()
        if not words:
            continue
        box = _read_object(words, number, class_names)
        if isinstance(box, str):
            problems.append(Problem(source, number, box))
        else:
            boxes.append(box)
    named = source if source.is_file() else path
    return RawImage(path, image_id, named, _no_line, "", None, boxes, normalised=True)


def _no_line() -> None:
    """An image is a file of its own, so no line names it."""


def _read_object(words: list[str], number: int, class_names: tuple[str, ...]) -> RawBox | str:
    """The line's box, or what keeps it from being read."""
    entry = f"line {number}"
    try:
        values = [float(word) for word in words]
    except ValueError:
        return f"{entry}: {_shown(words)}: expected numbers alone"
    if len(values) != _BOX_NUMBERS and (len(values) < _LEAST_POLYGON or len(values) % 2 == 0):
        score = " (a score behind a box makes 6: that is a detector's answer and no label)"
        return (
            f"{entry}: {len(values)} numbers; expected {_BOX_NUMBERS} (class, centre x, centre y, width, "
            f"height), or the class and x and y of 3 or more points"
            f"{score if len(values) == _BOX_NUMBERS + 1 else ''}"
        )
    if not (values[0].is_integer() and 0 <= values[0] < len(class_names)):
        return f"{entry}: unknown class: {words[0]} is none of 0..{len(class_names) - 1}"
    name = class_names[int(values[0])]
    if len(values) == _BOX_NUMBERS:
        x, y, width, height = values[1:]
        xyxy = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    else:
        xyxy = (min(values[1::2]), min(values[2::2]), max(values[1::2]), max(values[2::2]))
    return RawBox(xyxy, name, False, None, lambda: number, f"{entry} ({name})")


def _shown(words: list[str]) -> str:
    text = " ".join(words)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
