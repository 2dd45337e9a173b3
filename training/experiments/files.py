"""Files that a kill leaves whole or absent, so that finished parts can be told from broken ones."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import OptionError
from hindsight.whole_files import whole_file


def write_npz(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Arrays by name, compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **dict(arrays))  # type: ignore[arg-type]


def write_text(path: Path, text: str) -> None:
    """UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Indented; numbers that JSON cannot hold are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """An object. Raises OptionError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} can't be read: {error}") from error
    if not isinstance(value, dict):
        raise OptionError(f"{path}: expected a JSON object")
    return value


def file_digest(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
