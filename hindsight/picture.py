"""The way back to an image that something was found in, without keeping its pixels in memory.

A job that keeps the detections of 10,000 photos must not keep the photos: so a path is remembered as a path
and read again when somebody looks, and an array or a Pillow image is held weakly: as long as its owner has
it.
"""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["ImageLike", "Picture", "address_problem"]

ImageLike = str | os.PathLike[str] | bytes | NDArray[Any] | Image.Image


def address_problem(name: str | os.PathLike[str]) -> str | None:
    """What to say to somebody who gives http://... for a file; None for what is none."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", os.fspath(name)) is None:
        return None
    return f"{name}: expected a file and no address, for nothing is fetched: save it first"


class Picture:
    """A reference to an ImageLike. Encoded bytes cannot be held weakly, so they are only held with keep=True,
    as is everything then. Copies, and those sent to another process, know a path and nothing else.
    """

    def __init__(self, image: ImageLike, *, keep: bool = False) -> None:
        self._path: Path | None = None
        self._get: Callable[[], ImageLike | None] = _nothing
        if isinstance(image, str | os.PathLike):
            self._path = Path(os.path.abspath(image))
        elif keep:
            self._get = lambda: image
        elif isinstance(image, np.ndarray | Image.Image):
            self._get = weakref.ref(image)

    def image(self) -> ImageLike | None:
        """What it was made of; None where that is gone."""
        return self._path if self._path is not None else self._get()

    def __getstate__(self) -> tuple[Path | None]:
        return (self._path,)

    def __setstate__(self, state: tuple[Path | None]) -> None:
        (self._path,), self._get = state, _nothing


def _nothing() -> None:
    return None
