"""A model from a source into a folder of models, FOLDER/NAME/VERSION: all of it, in one instant, or nothing.

It is put together in FOLDER/.pull-NAME-VERSION-DIGEST, which nothing else looks at and the same pull goes on
with after a stop; the digest is the manifest's, so another model of that name never does.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hindsight.artifact import Artifact, load_artifact
from hindsight.errors import ArtifactError
from hindsight.hub.fetch import fetch_file, had_of, read_small
from hindsight.hub.origin import Origin, write_origin
from hindsight.hub.rules import MAX_MANIFEST_BYTES, Limits, check_listing, check_manifest_files, size_text
from hindsight.hub.sources import Source
from hindsight.manifest import Manifest, parse_manifest
from hindsight.places import MANIFEST

__all__ = ["Installed", "Plan", "install", "plan"]

_ROOM = 64 * 2**20  # bytes of the disk that are left alone


@dataclass(frozen=True)
class Plan:
    """What is to be fetched. text: manifest.json as it came. files: name -> bytes."""

    source: Source
    manifest: Manifest
    text: bytes
    files: dict[str, int]

    @property
    def total(self) -> int:
        """Bytes."""
        return sum(self.files.values())


@dataclass(frozen=True)
class Installed:
    """already: it was there before."""

    artifact: Artifact
    already: bool


def plan(source: Source, limits: Limits) -> Plan:
    """Look at a source's list of files and its manifest, and at nothing else. Raises HindsightError where
    what is there is not to be fetched.
    """
    files = source.files()
    check_listing(files, source.name)
    text = read_small(source, MANIFEST, MAX_MANIFEST_BYTES)
    try:
        manifest = parse_manifest(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{source.name}: {MANIFEST} is not valid JSON ({error})") from None
    except ArtifactError as error:
        raise ArtifactError(f"{source.name}: {error}") from None
    return Plan(source, manifest, text, check_manifest_files(manifest, files, limits, source.name))


def install(
    planned: Plan, folder: Path, on_file: Callable[[str], None], advance: Callable[[int], None]
) -> Installed:
    """Fetch it into `folder`. on_file: told the name of each file that begins; advance: how many bytes have
    been had. Raises HindsightError; nothing is left in the folder then but what the next try goes on with.
    """
    manifest = planned.manifest
    place = folder / manifest.name / manifest.version
    there = _already(planned, place)
    if there is not None:
        return Installed(there, already=True)
    digest = hashlib.sha256(planned.text).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f".pull-{manifest.name}-{manifest.version}-{digest}"
        _check_room(planned, draft)
        draft.mkdir(exist_ok=True)
        with _alone(draft):
            there = _already(planned, place)  # another process may have been faster
            if there is not None:
                shutil.rmtree(draft, ignore_errors=True)
                return Installed(there, already=True)
            try:
                _fill(planned, draft, on_file, advance)
            except ArtifactError:  # what it holds is not what was promised, so it is of no use later
                shutil.rmtree(draft, ignore_errors=True)
                raise
            place.parent.mkdir(exist_ok=True)
            os.rename(draft, place)
    except OSError as error:
        raise ArtifactError(f"{error.filename or folder}: cannot be written ({error.strerror})") from error
    return Installed(load_artifact(place, verify=False), already=False)


def _fill(planned: Plan, draft: Path, on_file: Callable[[str], None], advance: Callable[[int], None]) -> None:
    source = planned.source
    for name, size in planned.files.items():
        on_file(name)
        fetch_file(source, name, size, planned.manifest.files[name], draft, advance)
    (draft / MANIFEST).write_bytes(planned.text)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_origin(draft, Origin(source.name, source.revision, source.commit, now))
    load_artifact(draft)  # everything once more, as every later reader sees it


def _already(planned: Plan, place: Path) -> Artifact | None:
    """The same model, if it is there. Raises ArtifactError where something else is in its place."""
    if (place.parent / MANIFEST).is_file():
        raise ArtifactError(
            f"{place.parent} is itself a model, where a folder of versions is expected: move it to "
            f"{place.parent}/VERSION, or choose another folder with --models"
        )
    if not place.exists():
        return None
    try:
        there = load_artifact(place)
    except ArtifactError as error:
        raise ArtifactError(f"{error}; remove {place} to fetch it again") from error
    if there.manifest != planned.manifest:
        raise ArtifactError(
            f"{place} is another model of that name and version: remove it, or choose another folder with "
            "--models"
        )
    return there


def _check_room(planned: Plan, draft: Path) -> None:
    free = shutil.disk_usage(draft.parent).free
    missing = sum(size - had_of(draft / name, size) for name, size in planned.files.items())
    if missing + _ROOM > free:
        raise ArtifactError(
            f"{draft.parent} has room for {size_text(max(0, free - _ROOM))}, and the model has "
            f"{size_text(missing)}{' more' if missing < planned.total else ''}"
        )


@contextmanager
def _alone(draft: Path) -> Iterator[None]:
    """Nobody else fills this folder at the same time. Raises ArtifactError where somebody does."""
    busy = ArtifactError(f"another process is fetching this model into {draft.parent}: wait for it")
    try:
        handle = os.open(draft, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # it has just put it in its place
        raise busy from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            moved = os.stat(draft).st_ino != os.fstat(handle).st_ino
        except (BlockingIOError, FileNotFoundError):
            moved = True
        if moved:
            raise busy
        yield
    finally:
        os.close(handle)
