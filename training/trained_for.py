"""What a checkpoint was trained for: its classes, and the size of image that it expects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hindsight.artifact import ResizeRule
from model.checkpoint import CheckpointError


def classes_and_resize(path: Path, extra: Mapping[str, Any]) -> tuple[tuple[str, ...], ResizeRule]:
    """Of the checkpoint at `path`; `extra`: what `load_checkpoint` gives beside the detector.

    Raises CheckpointError where either is missing.
    """
    try:
        return tuple(str(name) for name in extra["class_names"]), ResizeRule(**extra["resize"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} names no classes or no resize rule: was it written by hindsight train or import?"
        ) from error
