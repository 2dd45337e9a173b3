"""A validation set for data that come without one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from hindsight.datasets.problems import DatasetError
from training.data.dataset import Dataset


def hold_out(dataset: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """(the rest, about `share` of the images): an image's side depends on its file's name alone.

    So a set that grows, moves or is read in another order keeps its sides, and training, evaluation and a
    second seed agree on them without a list. Images of one name lie on one side. Raises ValueError for a
    share outside 0..1, DatasetError where one side would be empty.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share held out must lie between 0 and 1, got {share}")
    sides = [held_out(record.path, share) for record in dataset.records]
    if all(sides) or not any(sides):
        raise DatasetError(
            f"holding out {share:g} of {len(dataset)} images leaves one side empty: name validation data"
        )
    return _side(dataset, sides, False), _side(dataset, sides, True)


def held_out(path: Path, share: float) -> bool:
    """Whether `hold_out` would put the image on the side that is held out."""
    return _position(path.name) < share


def _side(dataset: Dataset, sides: list[bool], wanted: bool) -> Dataset:
    records = [record for record, held in zip(dataset.records, sides, strict=True) if held is wanted]
    return Dataset(records, dataset.class_names, dataset.problems)


def _position(name: str) -> float:
    """0 <= a number < 1 that belongs to the name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) / 2**64
