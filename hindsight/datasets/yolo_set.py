"""What a YOLO folder says of itself: its classes, and where its images are.

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

from hindsight.datasets.problems import DatasetError
from hindsight.datasets.yaml_subset import Value, YamlError, read_keys
from hindsight.decode import IMAGE_SUFFIXES

CLASSES_FILE = "classes.txt"
YAML_SUFFIXES = (".yaml", ".yml")
_SPLITS = ("train", "val", "test")
_YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")


@dataclass(frozen=True)
class YoloSet:
    """What the names' file says. splits: their folders and lists of images, with the line that names them;
    empty where the images are one piece.
    """

    file: Path
    root: Path
    class_names: tuple[str, ...]
    splits: Mapping[str, tuple[tuple[Path, int | None], ...]]

    def entries(self, split: str | None = None) -> list[tuple[Path, int | None]]:
        """Of this split, or of all."""
        names = self.splits if split is None else [split]
        return [entry for name in names for entry in self.splits[name]] or [(self.root / "images", None)]


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


def image_folders(path: Path) -> set[Path]:
    """Resolved folders whose images, at any depth, belong to the set. Raises DatasetError."""
    return {entry.resolve() for entry, _ in open_yolo(path).entries() if entry.is_dir()}


def find_entry(entry: str, roots: Iterable[Path]) -> Path:
    """Where `entry`, of a YAML file or a list, leads to: relative to the first of `roots` that has it, to the
    first of all where none does.
    """
    relative = [entry, entry.removeprefix("../")] if entry.startswith("../") else [entry]
    places = [root / text for text in relative for root in roots]
    return next((place for place in places if place.exists()), places[0])


def pictures_in(folder: Path) -> Iterator[Path]:
    """Image files, at any depth."""
    return (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())


def _names_file(folder: Path) -> Path | None:
    for name in (*_YAML_NAMES, CLASSES_FILE):
        if (folder / name).is_file() and (name != CLASSES_FILE or (folder / "images").is_dir()):
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
        values = read_keys(text, ("names", "path", *_SPLITS, "kpt_shape"))
    except YamlError as error:
        raise DatasetError(f"{file}:{error.line}: {error}") from error
    if "kpt_shape" in values:
        raise DatasetError(f"{file}:{values['kpt_shape'].line}: labels of poses are not read, only boxes")
    if "names" not in values:
        raise DatasetError(f"{file}: expected the key `names`, the classes")
    roots = _roots(file, values)
    splits = {
        name: tuple(
            (find_entry(entry, roots), values[name].line) for entry in _texts(values[name], name, file)
        )
        for name in _SPLITS
        if name in values and values[name].content is not None
    }
    if not splits:
        raise DatasetError(f"{file}: expected at least one of the keys {', '.join(_SPLITS)}")
    return YoloSet(file, roots[0], _class_names(values["names"], file), splits)


def _opened_classes(file: Path, text: str) -> YoloSet:
    """classes.txt: a name a line. The folders in images/ are the splits."""
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    inside = file.parent / "images"
    folders = [
        child for child in sorted(inside.iterdir()) if child.is_dir() and next(pictures_in(child), None)
    ]
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
