"""Small data sets under audit."""

from __future__ import annotations

from pathlib import Path

from hindsight.audit.dataset import AuditSet, open_audit_set, read_set
from tests.unit.training.data_sets import voc_object, write_voc


def opened(path: Path, labels: tuple[int, ...] | None = None, split: str | None = None) -> AuditSet:
    """With the model's labels those of the data set, unless others are given."""
    kind, raw_images, names, problems = read_set(path, split=split)
    known = labels if labels is not None else tuple(range(len(names)))
    return open_audit_set(path, kind, split, raw_images, names, known, problems)


def voc_audit_set(root: Path) -> AuditSet:
    """Two images: an ant and a bee in the first; in the second a difficult bee, and an empty box."""
    write_voc(
        root,
        {
            "a": [voc_object("ant", 5, 5, 20, 20), voc_object("bee", 30, 10, 50, 40)],
            "b": [voc_object("ant", 9, 9, 9, 9), voc_object("bee", 11, 11, 30, 30, difficult=1)],
        },
    )
    return opened(root)
