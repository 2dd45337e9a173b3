"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A name beside `path`, with its suffix, to write to; the file takes `path`'s place at the end. Where
    that fails nothing is left of it. For who alone writes there.
    """
    draft = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
