"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["draft_of", "whole_file"]

_LONGEST = 255  # bytes of a name, on most file systems


def draft_of(path: Path) -> Path:
    """Where `path` is written until it is whole: beside it, hidden, of the same kind, and always the same, so
    that what a kill leaves is written over.
    """
    name = f".{path.stem}.partial{path.suffix}"
    if len(os.fsencode(name)) > _LONGEST:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.partial{path.suffix}"
    return path.with_name(name)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path`, with its suffix, to write to; the file takes `path`'s place at the end. Where
    that fails nothing is left of it. For who alone writes there.
    """
    draft = draft_of(path)
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
