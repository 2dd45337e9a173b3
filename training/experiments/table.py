"""What five heads said of the same boxes: one table a seed, from which claims 1 to 4 follow without a model.

n: boxes of all images that passed the class threshold; g: ground truths of all images; I: images; C: classes.
Boxes are xyxy in pixels of the original image. Files are .npz without pickled objects.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.errors import OptionError
from hindsight.overlap import Array
from training.experiments.files import write_npz
from training.experiments.matching import Truths

QUALITIES = ("iou", "purity", "integrity")


@dataclass(frozen=True, eq=False)
class RowTable:
    """`judged` maps "HEAD/FEATURES/QUALITY" to a column [n]: features "box" or "proposal", QUALITIES.

    A head that predicts the IoU itself has no column for purity and integrity.
    """

    image: NDArray[np.int64]  # [n] 0..I-1
    boxes: NDArray[np.float32]  # [n, 4]
    proposals: NDArray[np.float32]  # [n, 4] what the boxes were regressed from
    class_scores: NDArray[np.float32]  # [n, C]
    judged: Mapping[str, NDArray[np.float32]]
    truth_image: NDArray[np.int64]  # [g]
    truth_boxes: NDArray[np.float32]  # [g, 4]
    truth_labels: NDArray[np.int64]  # [g]
    truth_crowd: NDArray[np.bool_]  # [g]
    image_ids: NDArray[np.int64]  # [I]
    made_from: str  # JSON: what must be the same for the table to be used again

    def __len__(self) -> int:
        return len(self.image)

    def column(self, head: str, features: str, quality: str = "iou") -> Array:
        """[n] float64. Raises KeyError for what the head does not say."""
        return self.judged[f"{head}/{features}/{quality}"].astype(np.float64)

    def truths(self) -> list[Truths]:
        """Ground truth, an entry an image."""
        return [
            Truths(self.truth_boxes[own], self.truth_labels[own], self.truth_crowd[own])
            for own in (self.truth_image == index for index in range(len(self.image_ids)))
        ]

    def digest(self) -> str:
        """Of all that the claims read."""
        hashed = hashlib.sha256(self.made_from.encode())
        parts = {**self._fixed(), **{f"judged/{name}": value for name, value in self.judged.items()}}
        for name in sorted(parts):
            hashed.update(name.encode() + np.ascontiguousarray(parts[name]).tobytes())
        return hashed.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        judged = {f"judged/{name}": value for name, value in self.judged.items()}
        write_npz(path, {**self._fixed(), **judged, "made_from": np.array(self.made_from)})

    def _fixed(self) -> dict[str, NDArray[Any]]:
        names = ("image", "boxes", "proposals", "class_scores", "image_ids")
        truth = ("truth_image", "truth_boxes", "truth_labels", "truth_crowd")
        return {name: getattr(self, name) for name in (*names, *truth)}


def load_table(path: Path, made_from: Mapping[str, Any]) -> RowTable | None:
    """The table at `path`, None if there is none. Raises OptionError if it was made from something else."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            values = dict(file)
        judged = {
            name.removeprefix("judged/"): values.pop(name) for name in list(values) if "judged/" in name
        }
        table = RowTable(judged=judged, **{**values, "made_from": str(values["made_from"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{path} is no table of this version: move it away ({error})") from error
    if table.made_from != fingerprint(made_from):
        raise OptionError(f"{path} was made with another host, heads or test images: choose another --out")
    return table


def fingerprint(made_from: Mapping[str, Any]) -> str:
    """As a table keeps it."""
    return json.dumps(made_from, sort_keys=True)
