"""Names for files that are being written, beside those they will replace."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["draft_of"]

_LONGEST = 255  # bytes of a name, on most file systems


def draft_of(path: Path) -> Path:
    """Hidden, of the same kind, and always the same, so that what a kill leaves is written over."""
    name = f".{path.stem}.partial{path.suffix}"
    if len(os.fsencode(name)) > _LONGEST:
        name = f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:32]}.partial{path.suffix}"
    return path.with_name(name)
