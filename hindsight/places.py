"""Where models lie that have names: the folders of $HINDSIGHT_MODELS, the user's own, the shipped ones.

ROOT/NAME/ is a model, or ROOT/NAME/VERSION/ are several versions of one; a root may be a model itself.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hindsight.errors import ArtifactError
from hindsight.versions import VERSION_PATTERN, version_order

__all__ = ["MANIFEST", "MODELS_VARIABLE", "ModelsFolderWarning", "Place", "models_folder", "places"]

MANIFEST = "manifest.json"
MODELS_VARIABLE = "HINDSIGHT_MODELS"
_SHIPPED = Path(__file__).parent / "models"


class ModelsFolderWarning(UserWarning):
    """A folder of $HINDSIGHT_MODELS holds no models: it is not there, perhaps. The others are looked into."""


@dataclass(frozen=True)
class Place:
    """A folder with a manifest.json, and the name it is found by. version: as its folder is named, where it
    lies in NAME/VERSION.
    """

    name: str
    version: str | None
    path: Path


def places() -> Iterator[Place]:
    """In the order in which names are looked up; of several versions in one folder, the newest first. Names
    that begin with a dot are not looked at: models are put together under such names. Warns of a folder of
    $HINDSIGHT_MODELS that is not there.
    """
    own = _own_models()
    for root in _configured():
        _warn_of(root)
    for root in [*_configured(), *([own] if own is not None else []), _SHIPPED]:
        if _has_manifest(root):
            yield Place(root.name, None, root)
            continue
        for child in _folders(root):
            if _has_manifest(child):
                yield Place(child.name, None, child)
                continue
            versions = [
                inner
                for inner in _folders(child)
                if re.fullmatch(VERSION_PATTERN, inner.name) and _has_manifest(inner)
            ]
            versions.sort(key=lambda inner: version_order(inner.name), reverse=True)
            yield from (Place(child.name, inner.name, inner) for inner in versions)


def models_folder() -> Path:
    """Where `hindsight pull` puts models: the first folder of $HINDSIGHT_MODELS that is not a model itself,
    else the user's own, $XDG_DATA_HOME/hindsight/models or ~/.local/share/hindsight/models.

    Raises ArtifactError where there is no home either.
    """
    for root in _configured():
        if not _has_manifest(root):
            return root
    own = _own_models()
    if own is None:
        raise ArtifactError(f"there is no home folder to keep models in: set ${MODELS_VARIABLE}")
    return own


def _configured() -> list[Path]:
    return [Path(entry) for entry in os.environ.get(MODELS_VARIABLE, "").split(os.pathsep) if entry]


def _own_models() -> Path | None:
    home = os.environ.get("XDG_DATA_HOME", "")
    try:
        data = Path(home) if os.path.isabs(home) else Path.home() / ".local" / "share"
    except RuntimeError:  # a user without a home, as in some containers
        return None
    return data / "hindsight" / "models"


def _warn_of(root: Path) -> None:
    if os.path.isdir(root):
        if os.access(root, os.R_OK | os.X_OK):
            return
        reason = "which may not be read"
    else:
        reason = "which is no folder" if os.path.lexists(root) else "which is not there"
    warnings.warn(f"${MODELS_VARIABLE} names {root}, {reason}", ModelsFolderWarning, stacklevel=3)


def _has_manifest(folder: Path) -> bool:
    """Not where the folder may not be looked into; Path.is_file would raise."""
    return os.path.isfile(folder / MANIFEST)


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if not path.name.startswith(".") and path.is_dir())
    except OSError:
        return []
