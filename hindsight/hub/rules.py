"""Which files a model that comes from elsewhere may consist of.

Everything is decided from the list of names and sizes and from manifest.json, before anything else is
fetched. What is not known to be harmless is refused: nothing here is ever unpickled or run, and a model has
no use for files that are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hindsight.errors import ArtifactError
from hindsight.manifest import Manifest
from hindsight.places import MANIFEST
from hindsight.versions import NAME_PATTERN, VERSION_PATTERN

__all__ = ["MAX_MANIFEST_BYTES", "Limits", "check_listing", "check_manifest_files", "size_text"]

MAX_MANIFEST_BYTES = 4 * 2**20
_MOST_FILES = 1000
_SHOWN = 5

_PART = r"[A-Za-z0-9_][A-Za-z0-9._ ()+-]{0,127}"  # a name that no system reads as anything but a name
_MODEL_FILES = re.compile(
    rf"manifest\.json|MODEL_CARD\.md|LICEN[CS]E(\.txt|\.md)?|NOTICE(\.txt)?|parity\.json"
    rf"|{_PART}\.onnx"
    rf"|weights\.bin|{_PART}\.onnx[._]data"  # external data of the graphs
    rf"|samples/{_PART}\.(?i:jpe?g|png|webp|txt|md)"
)
# What repositories carry besides, and what is left there.
_LEFT_BEHIND = re.compile(r"README\.md|\.gitattributes|\.gitignore|LICEN[CS]E(\.txt|\.md)?|NOTICE(\.txt)?")


@dataclass(frozen=True)
class Limits:
    """Bytes of a whole model."""

    max_bytes: int = 2 * 2**30


def check_listing(files: Mapping[str, int], what: str) -> None:
    """`files`: name -> bytes, as the source lists them. Raises ArtifactError where there is no manifest, or a
    file that is of no kind a model consists of; of every kind of hostile name too.
    """
    if len(files) > _MOST_FILES:
        raise ArtifactError(f"{what} has {len(files)} files; a model has at most {_MOST_FILES}")
    strange = [name for name in files if not (_MODEL_FILES.fullmatch(name) or _LEFT_BEHIND.fullmatch(name))]
    if strange:
        deeper = sorted(name.removesuffix(f"/{MANIFEST}") for name in files if name.endswith(f"/{MANIFEST}"))
        if deeper and MANIFEST not in files:
            raise ArtifactError(
                f"{what} is no model but holds {_some(deeper)}; nothing was fetched: give one "
                "model's folder, or a zip file of that folder alone"
            )
        raise ArtifactError(
            f"{what} holds what a model has no use for: {_some(strange)}; nothing was fetched (expected "
            f"{MANIFEST}, *.onnx, weights.bin, samples/, MODEL_CARD.md, as `hindsight export` writes them)"
        )
    if MANIFEST not in files:
        raise ArtifactError(f"{what} has no {MANIFEST}; expected a model that `hindsight export` wrote")
    if not 0 <= files[MANIFEST] <= MAX_MANIFEST_BYTES:
        raise ArtifactError(f"{what}: a {MANIFEST} of {files[MANIFEST]} bytes is none")


def check_manifest_files(
    manifest: Manifest, files: Mapping[str, int], limits: Limits, what: str
) -> dict[str, int]:
    """The files to fetch, name -> bytes. Raises ArtifactError where the manifest asks for others than there
    are, or for more bytes than allowed.
    """
    for text, pattern, kind in (
        (manifest.name, NAME_PATTERN, "name"),
        (manifest.version, VERSION_PATTERN, "version"),
    ):
        if not re.fullmatch(pattern, text):
            raise ArtifactError(f"{what}: {text[:64]!r} cannot be a folder's name, so not a model's {kind}")
    wrong = [name for name in manifest.files if name == MANIFEST or not _MODEL_FILES.fullmatch(name)]
    if wrong:
        raise ArtifactError(f"{what}: its manifest lists what a model has no use for: {_some(wrong)}")
    missing = [name for name in manifest.files if name not in files]
    if missing:
        raise ArtifactError(f"{what}: its manifest lists what is not there: {_some(missing)}")
    unlisted = [
        name for name in files if name not in {MANIFEST, *manifest.files} and not _LEFT_BEHIND.fullmatch(name)
    ]
    if unlisted:
        raise ArtifactError(f"{what}: not listed in its manifest: {_some(unlisted)}; nothing was fetched")
    wanted = {name: files[name] for name in manifest.files}
    negative = [name for name, size in wanted.items() if size < 0]
    if negative:
        raise ArtifactError(f"{what} does not say how large {_some(negative)} is")
    total = sum(wanted.values())
    if total > limits.max_bytes:
        largest = max(wanted, key=lambda name: wanted[name])
        raise ArtifactError(
            f"{what} has {size_text(total)} ({largest} alone {size_text(wanted[largest])}); at most "
            f"{size_text(limits.max_bytes)} are fetched: raise --max-size if you trust it"
        )
    return wanted


def size_text(count: int) -> str:
    """Bytes for people."""
    if count < 1e6:
        return f"{count / 1e3:.1f} kB"
    return f"{count / 1e6:.1f} MB" if count < 1e9 else f"{count / 1e9:.2f} GB"


def _some(names: Iterable[str]) -> str:
    listed = [repr(name[:80]) for name in sorted(names)]
    more = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
