"""Maps of classes beside the images: one grey PNG each, as COCO-Stuff has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hindsight.datasets.problems import DatasetError, Problem
from hindsight.datasets.records import Record
from hindsight.preprocess import Letterboxed

_MODES = ("L", "P")  # a byte a pixel; a palette's colours do not matter


def with_semantic_maps(records: Sequence[Record], folder: Path, problems: list[Problem]) -> list[Record]:
    """The records whose map FOLDER/STEM.png is there and fits, with its path; appends to `problems`.

    A value is the class of a pixel, 255 says that it has none.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: no such folder of semantic maps")
    kept = []
    for record in records:
        path = folder / f"{record.path.stem}.png"
        fault = _fault(path, record)
        if fault is None:
            kept.append(replace(record, semantic_path=path))
        else:
            problems.append(Problem(path, None, fault))
    return kept


def _fault(path: Path, record: Record) -> str | None:
    if not path.is_file():
        return f"semantic map of {record.path.name} does not exist"
    try:
        with Image.open(path) as image:
            mode, (width, height) = image.mode, image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"semantic map cannot be read: {error}"
    if mode not in _MODES:
        return f"semantic map has mode {mode}, expected one byte a pixel (grey or palette)"
    if (height, width) != record.image_hw:
        return f"semantic map is {width}x{height}, its image {record.image_hw[1]}x{record.image_hw[0]}"
    return None


def read_semantic_map(path: Path) -> NDArray[np.uint8]:
    """The map [H, W]. Raises DatasetError if it does not decode."""
    try:
        with Image.open(path) as image:
            return np.array(image, dtype=np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise DatasetError(f"{path}: the semantic map does not decode: {error}") from error


def semantic_to_input(semantic: NDArray[np.uint8], boxed: Letterboxed) -> NDArray[np.uint8]:
    """The map at the valid size of the input; classes are picked, never mixed."""
    height, width = boxed.valid_hw
    image = Image.fromarray(np.ascontiguousarray(semantic))
    return np.array(image.resize((width, height), Image.Resampling.NEAREST))
