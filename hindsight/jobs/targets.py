"""Under which name each annotated picture, and each label file, is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from hindsight.errors import OptionError
from hindsight.jobs.sources import Source

__all__ = ["annotation_targets", "label_targets"]

_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_VIDEOS = frozenset({".mkv", ".mov", ".mp4"})


def annotation_targets(annotate: Path, sources: Sequence[Source], *, single: bool) -> dict[Path, Path]:
    """Source -> where it goes with its boxes drawn: for a `single` file to the file `annotate`, otherwise
    into that folder, which is made.

    Raises OptionError for a place that cannot be, or that is one of the sources.
    """
    if single and not os.path.isdir(annotate) and annotate.suffix:
        written = _VIDEOS if any(source.is_video for source in sources) else _PICTURES
        if annotate.suffix.lower() not in written:
            raise OptionError(f"--annotate writes {', '.join(sorted(written))}, got {annotate}")
        if not os.path.isdir(annotate.absolute().parent):
            raise OptionError(f"--annotate: there is no folder {annotate.parent}")
        targets = {source.path: annotate for source in sources}
    else:
        if annotate.suffix.lower() in _PICTURES | _VIDEOS and not os.path.exists(annotate):
            raise OptionError(
                f"--annotate {annotate} is a name for one file, and more may be written: give it a folder"
            )
        try:
            annotate.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"--annotate {annotate} must be a folder ({error.strerror})") from error
        if not os.access(annotate, os.W_OK | os.X_OK):
            raise OptionError(f"--annotate {annotate}: this folder may not be written to")
        targets = {path: annotate / name for path, name in _apart(sources, _suffix_written).items()}
    taken = {_identity(source.path) for source in sources} - {None}
    for target in targets.values():
        if _identity(target) in taken:
            raise OptionError(f"--annotate would overwrite the image {target}; choose another place")
    return targets


def label_targets(sources: Sequence[Source]) -> dict[Path, Path]:
    """Source -> its text file, relative to the folder of labels."""
    return _apart(sources, lambda source: ".txt")


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is, whatever its names; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _suffix_written(source: Source) -> str:
    suffix = source.path.suffix
    if source.is_video:
        return suffix if suffix.lower() in _VIDEOS else ".mp4"
    return suffix if suffix.lower() in _PICTURES else ".png"


def _apart(sources: Sequence[Source], suffix_of: Callable[[Source], str]) -> dict[Path, Path]:
    """A path for each, as it lies in the folder that was named, numbered where two would have the same."""
    names: dict[Path, Path] = {}
    taken: set[str] = set()
    counts: dict[str, int] = {}  # of those that would have one name: they may be thousands
    for source in sources:
        stem, suffix = source.relative.stem, suffix_of(source)
        name = source.relative.with_name(stem + suffix)
        wanted = str(name).lower()
        while str(name).lower() in taken:
            counts[wanted] = counts.get(wanted, 1) + 1
            name = source.relative.with_name(f"{stem}-{counts[wanted]}{suffix}")
        taken.add(str(name).lower())
        names[source.path] = name
    return names
