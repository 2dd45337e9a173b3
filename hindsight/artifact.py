"""A model as a folder: `manifest.json` beside the files it lists, every one held to its sha256.

NAME/  model.onnx  rescore.onnx  weights.bin  manifest.json  MODEL_CARD.md  samples/*.jpg
engines/<device>/...  origin.json

`engines/` holds what a machine built for itself from the model, and `origin.json` where it got it from
(hindsight/hub/origin.py), so they are neither listed nor hashed here.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from hindsight.errors import ArtifactError, ModelNotFound, OptionError
from hindsight.manifest import FORMAT_VERSION, ClassInfo, Defaults, Manifest, ResizeRule, parse_manifest
from hindsight.places import MANIFEST, MODELS_VARIABLE, Place, places

__all__ = [
    "DEFAULT_MODEL",
    "FORMAT_VERSION",
    "MANIFEST",
    "Artifact",
    "ClassInfo",
    "Defaults",
    "Manifest",
    "ResizeRule",
    "find_artifact",
    "list_artifacts",
    "load_artifact",
    "scan_artifacts",
    "write_artifact_manifest",
]

DEFAULT_MODEL = "cells"
ORIGIN = "origin.json"
_ENGINES = "engines"
_CLUTTER = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})  # written by file managers, never by us
_MAX_MANIFEST_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Artifact:
    """A model folder whose manifest has been read (and, unless told otherwise, whose files have been
    verified).
    """

    path: Path
    manifest: Manifest

    @cached_property
    def identity(self) -> str:
        """NAME@VERSION#DIGEST. The digest is of the manifest, and so of every file: two artifacts of one
        identity answer alike, wherever they lie.
        """
        text = json.dumps(self.manifest.to_json(), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.manifest.name}@{self.manifest.version}#{digest[:16]}"

    @property
    def model_path(self) -> Path:
        """The detection graph."""
        return self.path / "model.onnx"

    @property
    def rescore_path(self) -> Path | None:
        """The graph that judges given boxes; None where the model has no localization head."""
        return self.path / "rescore.onnx" if "rescore.onnx" in self.manifest.files else None

    def require_rescoring(self) -> Path:
        """`rescore_path`. Raises OptionError where the model has none."""
        path = self.rescore_path
        if path is None:
            raise OptionError(
                f"model {self.manifest.name} has no localization head, so it cannot rescore boxes"
            )
        return path

    @property
    def samples(self) -> tuple[Path, ...]:
        """Sample images, by name; the text files beside them (licence, sources) are left out."""
        inside = (name for name in sorted(self.manifest.files) if name.startswith("samples/"))
        return tuple(
            self.path / name for name in inside if name.lower().endswith((".jpg", ".jpeg", ".png", ".webp"))
        )

    @property
    def model_card(self) -> str | None:
        """The text of MODEL_CARD.md, if there is one."""
        if "MODEL_CARD.md" not in self.manifest.files:
            return None
        return (self.path / "MODEL_CARD.md").read_text(encoding="utf-8")


def load_artifact(path: Path, *, verify: bool = True) -> Artifact:
    """Read and check the model folder `path`.

    verify=False skips the hashes alone; the structure is always checked. Raises ArtifactError for a missing
    or unreadable manifest, a newer format, a listed file that is missing, changed or outside the folder, and
    a file that the manifest does not list.
    """
    path = Path(path)
    if not path.is_dir():
        raise ArtifactError(
            f"{path}: expected a model folder, found {'a file' if path.exists() else 'nothing'}"
        )
    manifest = _read_manifest(path)
    if "model.onnx" not in manifest.files:
        raise ArtifactError(f"{path}: manifest.json must list model.onnx, lists {sorted(manifest.files)}")
    root = path.resolve()
    for relative, expected in manifest.files.items():
        file = _inside(root, relative)
        if verify and (actual := _sha256(file)) != expected:
            raise ArtifactError(
                f"{path}: {relative} is not the file the manifest lists "
                f"(sha256 {actual[:12]}..., expected {expected[:12]}...): "
                "fetch or export the model again"
            )
    unlisted = sorted(set(_payload(root)) - set(manifest.files))
    if unlisted:
        raise ArtifactError(
            f"{path}: not listed in manifest.json: {', '.join(unlisted[:5])}; "
            "remove it or export the model again"
        )
    return Artifact(path, manifest)


def write_artifact_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Hash every file of `folder` (not manifest.json, not engines/) into `manifest.files` and write
    manifest.json atomically.

    Returns the manifest as written. Raises ArtifactError where a file is a link out of the folder.
    """
    folder = Path(folder)
    root = folder.resolve()
    files = {relative: _sha256(_inside(root, relative)) for relative in sorted(_payload(root))}
    written = dataclasses.replace(manifest, files=files)
    text = json.dumps(written.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # The draft lies outside the folder's payload names only until the rename, which is atomic on one file
    # system.
    handle, draft = tempfile.mkstemp(prefix=".manifest-", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(draft, 0o644)
        os.replace(draft, folder / MANIFEST)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
    return written


def find_artifact(name_or_path: str | Path) -> Artifact:
    """Load and verify a model given by folder, or by name: $HINDSIGHT_MODELS first, then what `hindsight
    pull` has fetched, then the shipped ones. A name is NAME, for the newest version of the first folder that
    has it, or NAME@VERSION.

    A text with a path separator, and a folder that holds a manifest.json, is a path. Raises ModelNotFound,
    ArtifactError.
    """
    path = Path(name_or_path)
    text = str(name_or_path)
    looks_like_path = isinstance(name_or_path, Path) or os.sep in text or "/" in text or text in {".", ".."}
    if os.path.isfile(path / MANIFEST) or (looks_like_path and path.is_dir()):
        return load_artifact(path)
    if looks_like_path:
        raise ModelNotFound(_file_problem(path) or f"no model folder at {path}")
    name, _, version = text.partition("@")
    found = list(places())
    for place in found:
        if place.name == name and (not version or _version_of(place) == version):
            return load_artifact(place.path)
    for _, artifact in scan_artifacts():
        if isinstance(artifact, Artifact) and artifact.manifest.name == text:
            return load_artifact(artifact.path)
    versions = dict.fromkeys(_version_of(place) or "?" for place in found if place.name == name)
    if version and versions:
        raise ModelNotFound(f"no version {version!r} of model {name!r}; there are: {', '.join(versions)}")
    known = sorted({place.name for place in found})
    raise ModelNotFound(
        _file_problem(path)
        or f"no model named {text!r}; there are: {', '.join(known) or 'none'} "
        f"(set ${MODELS_VARIABLE} to add a folder of models)"
    )


def list_artifacts(*, verify: bool = True) -> list[Artifact]:
    """The newest version of every model that has a name here; the first folder that has a name wins. Raises
    ArtifactError on the first bad one.
    """
    found = []
    for _, artifact in scan_artifacts(verify=verify):
        if isinstance(artifact, ArtifactError):
            raise artifact
        found.append(artifact)
    return found


def scan_artifacts(*, verify: bool = False) -> Iterator[tuple[str, Artifact | ArtifactError]]:
    """Like `list_artifacts`, by name; a bad model comes as its error instead of ending the list."""
    seen: set[str] = set()
    for place in places():
        if place.name in seen:
            continue
        seen.add(place.name)
        try:
            yield place.name, load_artifact(place.path, verify=verify)
        except ArtifactError as error:
            yield place.name, error


def _file_problem(path: Path) -> str | None:
    """What to say to somebody who names a checkpoint, or another tool's model."""
    if not os.path.isfile(path):
        return None
    return (
        f"{path} is a file; a model is a folder that `hindsight export` makes of a checkpoint "
        "(other tools' detectors: docs/coming-from.md)"
    )


def _version_of(place: Place) -> str | None:
    """What its manifest says where its folder is not named for a version; None if that is nothing."""
    if place.version is not None:
        return place.version
    try:
        return _read_manifest(place.path).version
    except ArtifactError:
        return None


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        if not path.is_file():
            raise ArtifactError(
                f"{folder}: no manifest.json; expected a folder that `hindsight export` wrote"
            )
        if path.stat().st_size > _MAX_MANIFEST_BYTES:
            raise ArtifactError(f"{path}: larger than {_MAX_MANIFEST_BYTES} bytes, so not a manifest")
        document = json.loads(path.read_text(encoding="utf-8"))
        # Python reads NaN and half a surrogate pair, but GET /models could not write them again.
        json.dumps(document, allow_nan=False, ensure_ascii=False).encode()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({error})") from None
    try:
        return parse_manifest(document)
    except ArtifactError as error:
        raise ArtifactError(f"{folder}: {error}") from None


def _inside(root: Path, relative: str) -> Path:
    """The file `relative` of the resolved folder `root`; refuses every spelling that leads elsewhere."""
    pure = PurePosixPath(relative)
    odd = "\\" in relative or ":" in relative or "\0" in relative or pure.as_posix() != relative
    if not pure.parts or odd or pure.is_absolute() or ".." in pure.parts:
        raise ArtifactError(f"{root}: files may only name paths inside the model folder, got {relative!r}")
    path = root / pure
    resolved = path.resolve()
    if not resolved.is_relative_to(root):
        raise ArtifactError(f"{root}: {relative} is a link out of the model folder")
    if not resolved.is_file():
        raise ArtifactError(
            f"{root}: {relative} is listed in manifest.json but missing: fetch or export the model again"
        )
    return resolved


def _payload(root: Path) -> Iterator[str]:
    """The relative paths of all files that a manifest must list."""
    for folder, folders, names in os.walk(root):
        base = Path(folder)
        if base == root:
            folders[:] = [name for name in folders if name != _ENGINES]
        # os.walk does not enter linked folders but lists them; as files they fail the check in _inside.
        linked = [name for name in folders if (base / name).is_symlink()]
        for name in [*names, *linked]:
            relative = (base / name).relative_to(root).as_posix()
            if relative not in (MANIFEST, ORIGIN) and name not in _CLUTTER:
                yield relative


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
