"""A folder of models: `FOLDER/NAME/` is an artifact, or `FOLDER/NAME/VERSION/` are several versions of one.

Folders are named as the manifests in them say, so that a name leads to a path and nowhere else. Names that
begin with a dot, and files, are not looked at: a model can be copied in under such a name, then renamed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hindsight.artifact import MANIFEST, Artifact, load_artifact
from hindsight.errors import ArtifactError, ModelNotFound
from hindsight.versions import NAME_PATTERN, VERSION_PATTERN, version_order

__all__ = ["ModelRepository", "StoredVersion"]


@dataclass(frozen=True)
class StoredVersion:
    """One version in the folder. `problem`: why it cannot be loaded; `version` is None where its manifest
    does not even say that.
    """

    name: str
    version: str | None
    path: Path
    problem: str | None = None


@dataclass(frozen=True)
class ModelRepository:
    """Reads the folder anew at every call; hashes are checked by `load` alone."""

    folder: Path

    def scan(self) -> list[StoredVersion]:
        """Every version of every model: by name, the newest first. ArtifactError: no such folder."""
        found = [stored for name in self.names() for stored in self.versions(name)]
        return sorted(found, key=lambda stored: stored.name)

    def names(self) -> list[str]:
        """The folders that could be models, sorted. ArtifactError: the folder cannot be read."""
        try:
            return sorted(path.name for path in _folders(self.folder, NAME_PATTERN))
        except OSError as error:
            raise ArtifactError(f"{self.folder}: cannot be read ({error.strerror})") from error

    def versions(self, name: str) -> list[StoredVersion]:
        """The versions of model `name`, the newest first; empty where there is no such folder."""
        path = self.folder / name
        if not re.fullmatch(NAME_PATTERN, name) or not path.is_dir():
            return []
        if (path / MANIFEST).is_file():
            return [self._stored(name, None, path)]
        try:
            folders = list(_folders(path, VERSION_PATTERN))
        except OSError as error:
            return [StoredVersion(name, None, path, f"{path}: cannot be read ({error.strerror})")]
        if not folders:
            problem = f"{path}: holds neither a {MANIFEST} nor folders of versions"
            return [StoredVersion(name, None, path, problem)]
        folders.sort(key=lambda folder: version_order(folder.name), reverse=True)
        return [self._stored(name, folder.name, folder) for folder in folders]

    def load(self, name: str, version: str | None = None, *, verify: bool = True) -> Artifact:
        """The newest version, or the one named. Raises ModelNotFound, ArtifactError; a version that cannot be
        read is never passed over for an older one.
        """
        stored = self.versions(name)
        if version is not None:
            # An only version that cannot be read may be the one that is asked for: its problem says more.
            found = [each for each in stored if each.version in (version, None)]
        else:
            found = stored[:1]
        if not found:
            known = ", ".join(each.version or "one that cannot be read" for each in stored)
            has = f"has version {known}" if stored else f"has no model {name[:64]!r}"
            wanted = f"version {version[:64]!r} of model {name[:64]!r}" if version else f"model {name[:64]!r}"
            raise ModelNotFound(f"no {wanted}: {self.folder} {has}")
        if found[0].problem is not None:
            raise ArtifactError(found[0].problem)
        return load_artifact(found[0].path, verify=verify)

    def _stored(self, name: str, version: str | None, path: Path) -> StoredVersion:
        """version: as the folder is named; None where the folder is not named for a version."""
        try:
            manifest = load_artifact(path, verify=False).manifest
        except ArtifactError as error:
            return StoredVersion(name, version, path, str(error))
        problem = None
        if manifest.name != name:
            problem = f"{path}: the folder is named for model {name}, its manifest says {manifest.name}"
        elif version is not None and manifest.version != version:
            problem = (
                f"{path}: the folder is named for version {version}, its manifest says {manifest.version}"
            )
        elif not re.fullmatch(VERSION_PATTERN, manifest.version):
            problem = (
                f"{path}: a version is of letters, digits, '.', '_', '+' or '-', got {manifest.version!r}"
            )
        if problem is not None:
            return StoredVersion(name, version, path, f"{problem}; rename one of them")
        return StoredVersion(name, manifest.version, path)


def _folders(parent: Path, pattern: str) -> Iterator[Path]:
    return (path for path in parent.iterdir() if re.fullmatch(pattern, path.name) and path.is_dir())
