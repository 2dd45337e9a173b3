"""Data sets made of others: a first part, and a union."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from training.data.dataset import Dataset


def first_images(dataset: Dataset, count: int) -> Dataset:
    """The first `count` images, in the set's own order; the set itself if it has no more."""
    if count >= len(dataset):
        return dataset
    return Dataset(dataset.records[:count], dataset.class_names, dataset.problems)


def joined(parts: Sequence[Dataset]) -> Dataset:
    """All images of sets with the same classes, numbered anew from 1. Raises ValueError for other classes."""
    names = parts[0].class_names
    for part in parts[1:]:
        if part.class_names != names:
            raise ValueError(f"sets of other classes: {', '.join(names)} and {', '.join(part.class_names)}")
    records = (record for part in parts for record in part.records)
    numbered = [replace(record, image_id=number) for number, record in enumerate(records, start=1)]
    return Dataset(numbered, names, [problem for part in parts for problem in part.problems])
