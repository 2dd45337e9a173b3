"""One file from a source to the disk: bounded, continued where an earlier try stopped, held to its hash."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from hindsight.errors import ArtifactError, ServiceError
from hindsight.hub.sources import CHUNK, Interrupted, Source

__all__ = ["fetch_file", "had_of", "read_small"]

_TRIES = 5  # of a file that keeps breaking off
_PAUSE = 0.5  # seconds, and twice as long each time
_PART = ".part"


def read_small(source: Source, name: str, most: int) -> bytes:
    """A whole file of at most `most` bytes. Raises ArtifactError for a longer one, ServiceError."""
    failures = 0
    while True:
        content = bytearray()
        try:
            for chunk in source.read(name, 0):
                content += chunk
                if len(content) > most:
                    raise ArtifactError(f"{source.name}: {name} is longer than the {most} bytes it may have")
            return bytes(content)
        except Interrupted as error:
            failures += 1
            _wait(source, name, failures, error)


def had_of(target: Path, size: int) -> int:
    """How many of a file's `size` bytes earlier tries have left at its place, or on the way to it."""
    for path in (target, target.with_name(target.name + _PART)):
        if path.is_file() and path.stat().st_size <= size:
            return path.stat().st_size
    return 0


def fetch_file(
    source: Source, name: str, size: int, sha256: str, folder: Path, advance: Callable[[int], None]
) -> None:
    """Put file `name` into `folder`. What an earlier try left is kept to, and checked like the rest.

    advance: told how many bytes have been had. Raises ArtifactError where it is not the file that was listed,
    of which nothing is left then; ServiceError where it cannot be had now.
    """
    target = folder / name
    if target.is_file():
        if target.stat().st_size == size and _sha256(target) == sha256:
            advance(size)
            return
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + _PART)
    had = part.stat().st_size if part.is_file() else 0
    if had > size:
        part.unlink()
        had = 0
    advance(had)
    failures = 0
    while True:
        try:
            with part.open("ab") as stream:
                for chunk in source.read(name, had) if had < size else ():
                    if had + len(chunk) > size:
                        raise _changed(source, name, f"is longer than the {size} bytes that were listed")
                    stream.write(chunk)
                    had += len(chunk)
                    advance(len(chunk))
            if had < size:
                raise Interrupted(f"it ended after {had} of {size} bytes")
            break
        except Interrupted as error:
            failures += 1
            _wait(source, name, failures, error)
        except ArtifactError:
            part.unlink(missing_ok=True)
            raise
    actual = _sha256(part)
    if actual != sha256:
        part.unlink()
        raise _changed(
            source, name, f"is not the file its manifest lists (sha256 {actual[:12]}, not {sha256[:12]})"
        )
    os.replace(part, target)


def _wait(source: Source, name: str, failures: int, error: Interrupted) -> None:
    """Before the next try. Raises ServiceError where there have been enough."""
    if failures == _TRIES:
        raise ServiceError(
            f"{source.name}: {name} keeps breaking off ({error}); the same command goes on from there"
        ) from error
    time.sleep(_PAUSE * 2 ** (failures - 1))


def _changed(source: Source, name: str, how: str) -> ArtifactError:
    return ArtifactError(f"{source.name}: {name} {how}: damaged, or changed since; nothing was installed")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
