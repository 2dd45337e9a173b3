"""YOLO folders as Ultralytics lays them out: images/ and labels/, and data.yaml or classes.txt for the names.

A label file has the name of its image and lies where "labels" takes the place of the last "images" in the
image's path (beside the image where its path has no such folder). One line an object, every value a share of
the image's width or height:

    CLASS CX CY W H                 a box
    CLASS X1 Y1 X2 Y2 X3 Y3 ...     a polygon, of which the enclosing box is taken

An image without a label file shows nothing, as Ultralytics has it.

data.yaml: `names`; `train`, `val` and `test`: each a folder, a list of images (.txt), or several of those;
`path`: what these are relative to. A `path` that does not exist here was another machine's: then, and without
one, the file's own folder counts. `../train/images`, as Roboflow writes it for folders beside the file, is
found too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from hindsight.datasets.problems import DatasetError, Problem
from hindsight.datasets.records import RawBox, RawImage
from hindsight.datasets.yaml_subset import Value, YamlError, read_keys
from hindsight.decode import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")
YAML_SUFFIXES = (".yaml", ".yml")
_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_CLASSES = "classes.txt"
_BOX_NUMBERS = 5
_LEAST_POLYGON = 7  # the class and three points


@dataclass(frozen=True)
class YoloSet:
    """What the names' file says. splits: their folders and lists of images, with the line that names them;
    empty where the images are one piece.
    """

    file: Path
    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[tuple[Path, int | None], ...]]


def is_yolo(path: Path) -> bool:
    """Whether `path` is such a folder, or the YAML file of one."""
    if path.is_file():
        return path.suffix.lower() in YAML_SUFFIXES
    return _names_file(path) is not None


def open_yolo(path: Path) -> YoloSet:
    """The set at `path`, a folder or its YAML file. Raises DatasetError for names that cannot be read."""
    file = path if path.is_file() else _names_file(path)
    if file is None:
        raise DatasetError(f"{path}: expected a YOLO folder: data.yaml, or classes.txt, images/ and labels/")
    return _opened(file, file.stat().st_mtime_ns)


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


def image_folders(path: Path) -> set[Path]:
    """Resolved folders whose images, at any depth, belong to the set. Raises DatasetError."""
    opened = open_yolo(path)
    entries = [entry for split in opened.splits.values() for entry, _ in split] or [opened.root / "images"]
    return {entry.resolve() for entry in entries if entry.is_dir()}


def label_path(image: Path) -> Path:
    """Where the labels of `image` are."""
    parts = list(image.parts[:-1])
    if "images" in parts:
        last = len(parts) - 1 - parts[::-1].index("images")
        parts[last] = "labels"
    return Path(*parts, f"{image.stem}.txt")


def _names_file(folder: Path) -> Path | None:
    for name in (*_YAML_NAMES, _CLASSES):
        if (folder / name).is_file() and (name != _CLASSES or (folder / "images").is_dir()):
            return folder / name
    return None


@lru_cache(maxsize=8)  # asked for its splits before it is read; the time of change keeps it honest
def _opened(file: Path, changed: int) -> YoloSet:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{file}: cannot be read: {error}") from error
    if file.suffix.lower() not in YAML_SUFFIXES:
        return _opened_classes(file, text)
    try:
        values = read_keys(text, ("names", "path", *SPLITS, "kpt_shape"))
    except YamlError as error:
        raise DatasetError(f"{file}:{error.line}: {error}") from error
    if "kpt_shape" in values:
        raise DatasetError(f"{file}:{values['kpt_shape'].line}: labels of poses are not read, only boxes")
    if "names" not in values:
        raise DatasetError(f"{file}: expected the key `names`, the classes")
    roots = _roots(file, values)
    splits = {
        name: tuple((_found(entry, roots), values[name].line) for entry in _texts(values[name], name, file))
        for name in SPLITS
        if name in values and values[name].content is not None
    }
    if not splits:
        raise DatasetError(f"{file}: expected at least one of the keys {', '.join(SPLITS)}")
    return YoloSet(file, roots[0], _class_names(values["names"], file), splits)


def _opened_classes(file: Path, text: str) -> YoloSet:
    """classes.txt: a name a line. The folders in images/ are the splits."""
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    inside = file.parent / "images"
    folders = [child for child in sorted(inside.iterdir()) if child.is_dir() and next(_pictures(child), None)]
    return YoloSet(
        file,
        file.parent,
        _checked_names(names, f"{file}"),
        {folder.name: ((folder, None),) for folder in folders},
    )


def _roots(file: Path, values: Mapping[str, Value]) -> list[Path]:
    """What the splits may be relative to, best first."""
    roots = [file.parent]
    if "path" in values and values["path"].content is not None:
        (text,) = _texts(values["path"], "path", file)[:1] or ("",)
        given = file.parent / text  # an absolute path replaces the folder
        if given.is_dir():
            roots.insert(0, given)
    return roots


def _found(entry: str, roots: Iterable[Path]) -> Path:
    """The first of the places that exists; the first of all where none does."""
    relative = [entry, entry.removeprefix("../")] if entry.startswith("../") else [entry]
    places = [root / text for text in relative for root in roots]
    return next((place for place in places if place.exists()), places[0])


def _texts(value: Value, key: str, file: Path) -> list[str]:
    """One text or several."""
    if isinstance(value.content, str):
        return [value.content]
    if isinstance(value.content, list):
        return value.content
    raise DatasetError(f"{file}:{value.line}: {key}: expected a path, or a list of them")


def _class_names(value: Value, file: Path) -> tuple[str, ...]:
    """A list, or a mapping of 0, 1, 2, ... to names."""
    place = f"{file}:{value.line}"
    if isinstance(value.content, list):
        return _checked_names(tuple(value.content), place)
    if not isinstance(value.content, dict):
        raise DatasetError(f"{place}: names: expected a list, or a mapping of 0, 1, 2, ... to names")
    numbered: dict[int, str] = {}
    for key, name in value.content.items():
        if not key.isascii() or not key.isdigit():
            raise DatasetError(f"{place}: names: {key!r} is no class number; they count from 0")
        numbered[int(key)] = name
    if sorted(numbered) != list(range(len(value.content))):
        given = ", ".join(str(number) for number in sorted(numbered)[:10])
        raise DatasetError(f"{place}: names: class numbers must count from 0 without gaps, got {given}")
    return _checked_names(tuple(numbered[number] for number in sorted(numbered)), place)


def _checked_names(names: tuple[str, ...], place: str) -> tuple[str, ...]:
    if not names or not all(names):
        raise DatasetError(f"{place}: names: expected at least one, and none of them empty")
    for index, name in enumerate(names):
        if name in names[:index]:
            raise DatasetError(f"{place}: names: {name!r} is listed twice")
    return names


def _image_files(opened: YoloSet, split: str | None, problems: list[Problem]) -> list[Path]:
    """Each once, sorted. A folder that is missing ends it if it was asked for, else it is a problem."""
    if split is not None and split not in opened.splits:
        have = ", ".join(opened.splits) or "none: the set is one piece"
        raise DatasetError(f"{opened.file}: no split {split!r} (there are: {have})")
    entries = [
        (entry, line)
        for name in ([split] if split is not None else opened.splits)
        for entry, line in opened.splits[name]
    ] or [(opened.root / "images", None)]
    files: set[Path] = set()
    missing: list[Problem] = []
    for entry, line in entries:
        if entry.is_dir():
            files.update(_pictures(entry))
        elif entry.is_file():
            files.update(_listed(entry, opened.root, problems))
        else:
            missing.append(Problem(opened.file, line, f"{entry} does not exist"))
    if missing and (split is not None or len(missing) == len(entries)):
        raise DatasetError(str(missing[0]))
    problems.extend(missing)
    if opened.file.name == _CLASSES or all(entry.is_dir() for entry, _ in entries):
        _report_orphans(files, problems)
    return sorted(files)


def _pictures(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


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
        file = _found(text, (listing.parent, root))
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
            if file not in labels and file.name != _CLASSES:
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
