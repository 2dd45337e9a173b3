"""What models and their versions may be called, and which version is the newest."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["NAME_PATTERN", "VERSION_PATTERN", "VersionOrder", "version_order"]

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
VERSION_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}"
_SEMANTIC = re.compile(r"v?([0-9]{1,18}(?:\.[0-9]{1,18})*)(?:-([0-9A-Za-z.-]+))?(?:\+.*)?")

_Part = tuple[int, int, str]
VersionOrder = tuple[int, tuple[int, ...], int, tuple[_Part, ...], str]


def version_order(version: str) -> VersionOrder:
    """A sort key: 1.9 < 1.10, 2.0-rc.1 < 2.0 = 2.0.0 as semantic versions have it; whatever has no such form
    comes before all that have, by its text.
    """
    match = _SEMANTIC.fullmatch(version)
    if match is None:
        return 0, (), 0, (), version
    numbers = [int(part) for part in match[1].split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return 1, tuple(numbers), int(match[2] is None), tuple(_parts(match[2] or "")), version


def _parts(prerelease: str) -> Iterator[_Part]:
    """Numbers before words, numbers by value."""
    for part in prerelease.split("."):
        yield (0, int(part), "") if part.isdecimal() and len(part) <= 18 else (1, 0, part)
