"""The data of a training run, opened and checked before the first step; what is to be known of it is said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from hindsight.datasets.problems import DatasetError
from hindsight.datasets.source import default_split
from hindsight.errors import OptionError
from training.data.dataset import Dataset, open_dataset
from training.data.holdout import hold_out
from training.team import is_leader


def open_sets(
    data: Path,
    images: Path | None,
    split: str | None,
    val_data: Path | None,
    val_images: Path | None,
    val_split: str | None,
    skip_bad: bool,
    class_names: Sequence[str] | None = None,
    val_share: float | None = None,
    **extras: Any,
) -> tuple[Dataset, Dataset | None]:
    """Training and validation data, checked before the first step. No validation data: said aloud.

    `class_names`: a frozen host's, which the data must keep to. `extras`: what is read of the training data
    besides boxes; validation measures boxes.
    """
    if val_share is not None and (val_data is not None or val_split is not None):
        raise OptionError("--val-share holds out training images: it goes without --val-data and --val-split")
    if val_share is not None and not 0 < val_share < 1:
        raise OptionError(f"--val-share must lie between 0 and 1, got {val_share}")
    has_splits = default_split(data, "train") is not None
    try:
        training = open_dataset(
            data,
            images=images,
            split=split or default_split(data, "train"),
            class_names=class_names,
            skip_bad=skip_bad,
            **extras,
        )
    except DatasetError as error:
        if class_names is None:
            raise
        known = f"the host's classes are {', '.join(class_names)}"
        raise DatasetError(
            f"{error}; {known}", error.problems, f"{known}; {error.report().splitlines()[0]}"
        ) from None
    if val_share is not None:
        training, validation = hold_out(training, val_share)
        _tell(training, "training")
        _tell(validation, "validation")
        return training, validation
    _tell(training, "training")
    if val_data is None and not has_splits:
        say("neither --val-data nor --val-share: training without validation, the last epoch counts")
        return training, None
    source = val_data or data
    try:
        validation = open_dataset(
            source,
            images=val_images,
            split=val_split or default_split(source, "val"),
            class_names=training.class_names,
            skip_bad=skip_bad,
        )
    except DatasetError as error:
        raise DatasetError(
            f"validation data: {error}", error.problems, error.report().splitlines()[0]
        ) from None
    _tell(validation, "validation")
    shared = len(training.files() & validation.files())
    if shared and val_data is None and val_split is None:
        say(
            f"{shared} of the {len(validation)} validation images are trained on: training without "
            "validation, the last epoch counts"
        )
        return training, None
    if shared:
        say(
            f"warning: {shared} of the {len(validation)} validation images are trained on: the validation AP "
            "will flatter"
        )
    return training, validation


def _tell(dataset: Dataset, role: str) -> None:
    left_out = f", {len(dataset.problems)} bad entries left out" if dataset.problems else ""
    names = ", ".join(dataset.class_names)
    say(f"{role}: {len(dataset)} images{left_out}; classes: {names}")


def say(message: str) -> None:
    """On stderr, once for all processes of a run."""
    if is_leader():
        typer.echo(message, err=True)
