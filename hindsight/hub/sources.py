"""Where a model may come from: what every place offers, and the two that need no network."""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from hindsight.errors import ArtifactError
from hindsight.places import MANIFEST

__all__ = ["CHUNK", "HUB_PREFIX", "FolderSource", "Interrupted", "Source", "ZipSource"]

CHUNK = 2**20  # bytes read at a time
HUB_PREFIX = "hf://"  # of what huggingface.py reads; here, because that needs an extra
_MOST_ENTRIES = 4000  # of a zip file's directory, or files of a folder, that are looked at
# What zipfile expands piece by piece. Of bzip2 and LZMA it expands all that a piece holds: gigabytes.
_BOUNDED = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_OURS = frozenset({"engines", "origin.json"})  # what a machine adds to a model: it stays where it is


class Interrupted(Exception):
    """The rest of a file did not come; what came is good, and the rest may be asked for again."""


class Source(Protocol):
    """A place with a model in it."""

    @property
    def name(self) -> str:
        """As it was asked for."""
        ...

    @property
    def revision(self) -> str | None:
        """What was asked for there, if there are several."""
        ...

    @property
    def commit(self) -> str | None:
        """What that is exactly; known once the files are listed."""
        ...

    def files(self) -> dict[str, int]:
        """Every file's name, with forward slashes, and its bytes, -1 where unknown; none is fetched. Raises
        HindsightError.
        """
        ...

    def read(self, name: str, start: int) -> Iterator[bytes]:
        """The bytes of a file from `start` on. Raises HindsightError, Interrupted."""
        ...


class FolderSource:
    """A model folder, of another machine perhaps."""

    revision = commit = None

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def files(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for folder, folders, names in os.walk(self._path, onerror=self._refuse):
            base = Path(folder)
            skipped = _OURS if base == self._path else frozenset()
            folders[:] = [name for name in folders if name not in skipped]
            own = [name for name in names if name not in skipped]
            for name in [*own, *(inner for inner in folders if (base / inner).is_symlink())]:
                path = base / name
                relative = path.relative_to(self._path).as_posix()
                status = path.lstat()
                if not stat.S_ISREG(status.st_mode):
                    raise ArtifactError(f"{self.name}: {relative!r} is a link or no file; nothing was copied")
                found[relative] = status.st_size
                if len(found) > _MOST_ENTRIES:
                    raise ArtifactError(f"{self.name} has far more files than a model")
        return found

    def read(self, name: str, start: int) -> Iterator[bytes]:
        path = self._path / name
        try:
            # A link put there since the files were listed is not followed.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            with os.fdopen(handle, "rb") as stream:
                stream.seek(start)
                while chunk := stream.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error

    def _refuse(self, error: OSError) -> None:
        raise ArtifactError(f"{error.filename}: cannot be read ({error.strerror})") from error


class ZipSource:
    """A zip file of a model folder's contents, or of the folder itself. To be closed."""

    revision = commit = None

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError."""
        self.name = str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ArtifactError(f"{path}: cannot be read as a zip file ({reason})") from error
        self._members: dict[str, zipfile.ZipInfo] = {}

    def files(self) -> dict[str, int]:
        entries = [entry for entry in self._zip.infolist() if not entry.is_dir()]
        if len(entries) > _MOST_ENTRIES:
            raise ArtifactError(f"{self.name} has far more files than a model")
        for entry in entries:
            if entry.flag_bits & 1:
                raise ArtifactError(f"{self.name}: {entry.filename!r} is encrypted")
            if entry.compress_type not in _BOUNDED:
                raise ArtifactError(
                    f"{self.name}: {entry.filename!r} is compressed in a way that is not read: make the zip "
                    "file with deflate, or without compression"
                )
            if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
                raise ArtifactError(f"{self.name}: {entry.filename!r} is a link or no file")
        prefix = _folder_of([entry.filename for entry in entries])
        for entry in entries:
            name = entry.filename.removeprefix(prefix)
            if name.partition("/")[0] in _OURS:
                continue
            if name in self._members:
                raise ArtifactError(f"{self.name} holds {name!r} twice")
            self._members[name] = entry
        return {name: entry.file_size for name, entry in self._members.items()}

    def read(self, name: str, start: int) -> Iterator[bytes]:
        try:
            with self._zip.open(self._members[name]) as stream:
                stream.seek(start)
                while chunk := stream.read(CHUNK):
                    yield chunk
        except (
            OSError,
            zipfile.BadZipFile,
            zlib.error,
            EOFError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise ArtifactError(f"{self.name}: {name} is damaged ({error})") from error

    def close(self) -> None:
        self._zip.close()


def _folder_of(names: list[str]) -> str:
    """The folder, with its slash, that everything in a zip file lies in; empty where it does not."""
    if MANIFEST in names:
        return ""
    tops = {name.partition("/")[0] for name in names}
    return f"{tops.pop()}/" if len(tops) == 1 and all("/" in name for name in names) else ""
