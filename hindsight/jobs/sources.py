"""Which images and videos a command line names: in a fixed order, each once."""

from __future__ import annotations

import glob
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hindsight.decode import IMAGE_SUFFIXES
from hindsight.picture import address_problem

__all__ = ["JOURNAL_NAME", "VIDEO_SUFFIXES", "Source", "Sources", "find_sources", "is_one_file", "read_list"]

# Which named files are taken for videos; what they are shows when they are opened.
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts",
     ".webm", ".wmv"}
)  # fmt: skip
JOURNAL_NAME = ".hindsight-journal"
_COUNTED_VIDEOS = VIDEO_SUFFIXES - {".ts"}  # in folders those are TypeScript
_LOOKED_FOR = ", ".join(sorted(IMAGE_SUFFIXES))


@dataclass(frozen=True)
class Source:
    """A file. relative: its path within the folder that was named; the name alone for a file that was."""

    path: Path
    relative: Path

    @property
    def file(self) -> str:
        """The path as it is told."""
        return str(self.path)

    @property
    def is_video(self) -> bool:
        """By its name."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass
class Sources:
    """files: in order. problems: a line for each argument, or folder below one, that cannot be used. notes:
    lines about what was left out.
    """

    files: list[Source] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_sources(given: Collection[str], *, recursive: bool = True, own: Collection[Path] = ()) -> Sources:
    """The files behind `given`: files, folders and patterns such as photos/**/*.jpg.

    Of a folder the images are taken, by their names; hidden files and folders are left out, links are
    followed once. recursive: those of the folders in it too. own: folders that the job writes to; they are
    left out below what is named, folder or pattern, and so is any folder with a job's journal in it. Of a
    pattern, images and videos are taken. Whether a file that was named can be read shows when it is read.
    """
    found = _Found(recursive, {os.path.realpath(path) for path in own})
    for text in given:
        found.take(text)
    return Sources(list(found.files.values()), found.problems, found.notes)


def read_list(content: bytes) -> list[str]:
    """A list of files: one a line, or with NUL bytes between them as `find -print0` writes it."""
    separator = b"\0" if b"\0" in content else b"\n"
    names = (name if separator == b"\0" else name.removesuffix(b"\r") for name in content.split(separator))
    return [os.fsdecode(name) for name in names if name]


class _Found:
    def __init__(self, recursive: bool, own: set[str]) -> None:
        self.files: dict[Path, Source] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._recursive = recursive
        self._own = own
        self._known: dict[Path, bool] = {}  # many matches lie in one folder

    def take(self, text: str) -> None:
        """One argument."""
        path = Path(text)
        address = address_problem(text)
        if address is not None:
            self.problems.append(address)
        elif os.path.isdir(text):  # pathlib's raises for what cannot be looked at, or is too long for a name
            self._take_folder(path)
        elif _is_pattern(text):
            self._take_pattern(text)
        else:
            self._add(path, Path(path.name))

    def _take_pattern(self, pattern: str) -> None:
        taken = len(self.files)
        matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
        named = len(_named_part(pattern).parts)
        for match in matches:
            if self._lies_in_own(match, named):
                continue
            if os.path.isdir(match):
                if not pattern.endswith("**"):  # which names what is in it anyway
                    self._take_folder(match, by_pattern=True)
            elif match.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
                self._add(match, Path(match.name))
        if not matches:
            self.problems.append(f"{pattern}: there is no such file, and nothing matches it as a pattern")
        elif len(self.files) == taken:
            self.problems.append(f"{pattern}: matches no images and no videos (looked at the files' names)")

    def _take_folder(self, root: Path, *, by_pattern: bool = False) -> None:
        """by_pattern: nobody promised images in it."""
        problems, taken, videos = len(self.problems), 0, 0
        for path in self._walk(root):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                self._add(path, path.relative_to(root))
                taken += 1
            elif path.suffix.lower() in _COUNTED_VIDEOS:
                videos += 1
        count = f"{videos} video" if videos == 1 else f"{videos} videos"
        if taken and videos:
            self.notes.append(
                f"{root}: {count} in this folder left out; a pattern such as '{root}/*.mp4' takes them"
            )
        elif not taken and not by_pattern and len(self.problems) == problems:
            more = f"; its {count} can be named by a pattern such as '{root}/*.mp4'" if videos else ""
            self.problems.append(f"{root}: no images in this folder (looked for {_LOOKED_FOR}){more}")

    def _add(self, path: Path, relative: Path) -> None:
        self.files.setdefault(path, Source(path, relative))

    def _walk(self, root: Path) -> Iterator[Path]:
        """Files, sorted; each folder once, however many links lead to it."""
        walked: set[tuple[int, int]] = set()
        levels = [self._children(root, walked)]  # no recursion: folders may be nested deeper than it goes
        while levels:
            child = next(levels[-1], None)
            if child is None:
                levels.pop()
            elif not os.path.isdir(child):
                yield child
            elif self._recursive and not self._is_own(child):
                levels.append(self._children(child, walked))

    def _children(self, folder: Path, walked: set[tuple[int, int]]) -> Iterator[Path]:
        """Sorted; none of a folder that was walked before, and from now on this one was."""
        try:
            status = folder.stat()
            children = [child for child in folder.iterdir() if not child.name.startswith(".")]
        except OSError as error:
            self.problems.append(f"{folder}: cannot be read ({error.strerror})")
            return iter(())
        identity = (status.st_dev, status.st_ino)
        if identity in walked:
            return iter(())
        walked.add(identity)
        return iter(sorted(children, key=lambda child: child.name))

    def _lies_in_own(self, match: Path, named: int) -> bool:
        """Whether a match, or a folder above it that the pattern does not name in so many parts, is such."""
        folders = (match, *match.parents)[: max(0, len(match.parts) - named)]
        return any(self._is_own(folder) for folder in folders if folder != match or os.path.isdir(match))

    def _is_own(self, folder: Path) -> bool:
        if folder not in self._known:
            own = os.path.realpath(folder) in self._own
            self._known[folder] = own or os.path.lexists(folder / JOURNAL_NAME)
        return self._known[folder]


def is_one_file(text: str) -> bool:
    """Whether an argument names a single file, there or not: no folder, no pattern, no list."""
    return text != "-" and not os.path.isdir(text) and not _is_pattern(text)


def _named_part(pattern: str) -> Path:
    """The folders before a pattern's first wildcard."""
    parts = Path(pattern).parts
    return Path(*parts[: next((place for place, part in enumerate(parts) if glob.has_magic(part)), None)])


def _is_pattern(text: str) -> bool:
    return glob.has_magic(text) and not os.path.lexists(text)
