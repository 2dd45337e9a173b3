"""Pascal VOC folders: Annotations/NAME.xml, JPEGImages/NAME.jpg, ImageSets/Main/SPLIT.txt.

Coordinates in VOC files are 1-based pixel indices, both ends inclusive: an object that touches all four
edges of a 640x480 image reads (1, 1, 640, 480). In continuous coordinates that is (0, 0, 640, 480): 1 is
taken from the minima, nothing from the maxima. (BCCD holds 610 boxes with a minimum of 1, 545 with a
maximum at the edge, none at 0: it keeps the convention. A file that counts from 0 ends up 1 px outside,
which is clipped.) A maximum equal to its minimum, a single pixel by that reading, is what annotation tools
leave behind after a stray click: it is refused as empty.

`difficult` objects are treated like COCO crowds: neither object nor background.
"""

from __future__ import annotations

from pathlib import Path

from hindsight.datasets.problems import DatasetError, Problem
from hindsight.datasets.records import RawBox, RawImage
from hindsight.datasets.xml_lines import LineElement, XmlError, parse_with_lines

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".JPG", ".JPEG", ".PNG")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def is_voc_folder(path: Path) -> bool:
    return (path / "Annotations").is_dir()


def read_voc(root: Path, split: str | None, images: Path | None, problems: list[Problem]) -> list[RawImage]:
    """Every image of the split (every annotation file without one); ids count from 1 in the split's order.

    Raises DatasetError where nothing can be read at all: no such split.
    """
    folder = images if images is not None else root / "JPEGImages"
    raw_images = []
    for image_id, (name, listed_in, line) in enumerate(_names(root, split, problems), start=1):
        source = root / "Annotations" / f"{name}.xml"
        if not source.is_file():
            problems.append(Problem(listed_in, line, f"{name}: annotation file {source} does not exist"))
            continue
        try:
            element = parse_with_lines(source)
        except XmlError as fault:
            problems.append(Problem(source, fault.line, str(fault)))
            continue
        except OSError as error:
            problems.append(Problem(source, None, f"cannot be read: {error.strerror}"))
            continue
        raw_images.append(
            _read_image(element, source, _image_path(folder, name, element), image_id, problems)
        )
    return raw_images


def _names(root: Path, split: str | None, problems: list[Problem]) -> list[tuple[str, Path, int | None]]:
    """(name, the file that lists it, line) of every image, duplicates reported and left out."""
    if split is None:
        return [(file.stem, file, None) for file in sorted((root / "Annotations").glob("*.xml"))]
    listing = root / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        have = sorted(file.stem for file in listing.parent.glob("*.txt"))
        raise DatasetError(
            f"{root}: no split {split!r} (expected {listing}; there are: {', '.join(have) or 'none'})"
        )
    names: dict[str, tuple[str, Path, int | None]] = {}
    for number, text in enumerate(listing.read_text(encoding="utf-8").splitlines(), start=1):
        words = text.split()  # per-class lists carry a second column: 1, 0 or -1
        if not words:
            continue
        if words[0] in names:
            problems.append(
                Problem(listing, number, f"{words[0]} is listed twice (first on line {names[words[0]][2]})")
            )
            continue
        names[words[0]] = (words[0], listing, number)
    return list(names.values())


def _image_path(folder: Path, name: str, root: LineElement) -> Path:
    """The image beside this annotation: same stem first, then the <filename> it names."""
    for suffix in IMAGE_SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    named = Path((root.findtext("filename") or "").strip()).name
    return folder / named if named and (folder / named).is_file() else folder / f"{name}.jpg"


def _read_image(
    root: LineElement, source: Path, path: Path, image_id: int, problems: list[Problem]
) -> RawImage:
    boxes = []
    for number, element in enumerate(root.findall("object"), start=1):
        assert isinstance(element, LineElement)
        box = _read_object(element, number)
        if isinstance(box, str):
            problems.append(Problem(source, element.line, box))
        else:
            boxes.append(box)
    size = root.find("size")
    line = size.line if isinstance(size, LineElement) else root.line
    return RawImage(path, image_id, source, lambda: line, "", _size_wh(size), boxes)


def _size_wh(size: object) -> tuple[int, int] | None:
    """The claimed size; None where the file gives none (0x0 is what some tools write for "unknown")."""
    if not isinstance(size, LineElement):
        return None
    try:
        width, height = int(size.findtext("width") or 0), int(size.findtext("height") or 0)
    except ValueError:
        return None
    return (width, height) if width > 0 and height > 0 else None


def _read_object(element: LineElement, number: int) -> RawBox | str:
    """The object's box, or what keeps it from being read."""
    name = (element.findtext("name") or "").strip()
    entry = f"object {number} ({name or 'no name'})"
    if not name:
        return f"{entry}: <name> is missing"
    bounds = element.find("bndbox")
    if not isinstance(bounds, LineElement):
        return f"{entry}: <bndbox> is missing"
    values = []
    for corner in _CORNERS:
        text = (bounds.findtext(corner) or "").strip()
        try:
            values.append(float(text))
        except ValueError:
            return f"{entry}: <{corner}> is {text!r}, expected a number"
    x_min, y_min, x_max, y_max = values
    fault = None
    if x_max == x_min or y_max == y_min:
        fault = f"empty box ({x_min:g}, {y_min:g}, {x_max:g}, {y_max:g}): no width or no height"
    elif x_max < x_min or y_max < y_min:
        fault = (
            f"inverted box ({x_min:g}, {y_min:g}, {x_max:g}, {y_max:g}): a maximum lies before its minimum"
        )
    difficult = (element.findtext("difficult") or "0").strip() not in ("", "0")
    line = bounds.line
    return RawBox((x_min - 1, y_min - 1, x_max, y_max), name, difficult, None, lambda: line, entry, fault)
