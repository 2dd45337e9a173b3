"""Claim 7: how far regression moves the IoU of a proposal, recorded after every epoch of a training.

Two kinds of proposals: the SAME boxes at every epoch (moved and stretched ground truths of IoU .5 and more),
and the detector's OWN positive proposals of that epoch. n: proposals of one kind; I: watched images.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hindsight.artifact import ResizeRule
from hindsight.errors import OptionError
from hindsight.overlap import Array, overlap_with, pairwise_iou
from model.detector import TwoStageDetector
from model.structures import Proposals
from training.data import Batch, Dataset, EvalLoader
from training.data.parts import first_images
from training.evaluation.rescoring import jittered_boxes
from training.experiments.bootstrap import mean_samples
from training.experiments.files import write_npz
from training.experiments.judging import Samples

WATCHED_IMAGES = 64
POSITIVE_IOU = 0.5
SAME, OWN = "same", "own"
MIN_EPOCHS = 3


class Moved(NamedTuple):
    """Proposals of one kind and what regression made of them: image, IoU before and after, all [n]."""

    image: NDArray[np.int64]
    before: Array
    after: Array

    @property
    def change(self) -> Array:
        """[n], above 0: regression helped."""
        return self.after - self.before


@dataclass(frozen=True)
class RegressionWatch:
    """What a Run calls after every epoch. Writes epoch-001.npz, epoch-002.npz, ... into `folder`."""

    dataset: Dataset
    rule: ResizeRule
    folder: Path
    batch_size: int = 4
    images: int = WATCHED_IMAGES

    def __call__(self, detector: TwoStageDetector, epochs: int) -> None:
        """Record the epoch; the detector is in evaluation mode and keeps no gradients."""
        watched = first_images(self.dataset, self.images)
        place = {watched.annotations(index).image_id: index for index in range(len(watched))}
        device = next(detector.parameters()).device
        parts: dict[str, list[Moved]] = {SAME: [], OWN: []}
        for batch in EvalLoader(watched, self.batch_size, self.rule):
            images, sizes = batch.images.to(device), batch.image_sizes.to(device)
            pyramid = detector.extract(images, sizes)
            rois = detector.rois(pyramid)
            for kind, proposals in (
                (SAME, _same_proposals(batch, device)),
                (OWN, detector.propose(pyramid, images, sizes)),
            ):
                boxes = detector.head.refine(rois, proposals, sizes, None).boxes
                places = [place[image_id] for image_id in batch.image_ids]
                parts[kind] += _moved(batch, places, proposals, boxes)
        columns = {}
        for kind, found in parts.items():
            for name in Moved._fields:
                columns[f"{kind}_{name}"] = np.concatenate([getattr(part, name) for part in found])
        write_npz(epoch_file(self.folder, epochs), columns)


def epoch_file(folder: Path, epochs: int) -> Path:
    """Where the record after so many epochs lies."""
    return folder / f"epoch-{epochs:03}.npz"


def load_epochs(folder: Path, epochs: int) -> dict[str, list[Moved]]:
    """Kind -> one record an epoch. Raises OptionError for an epoch that was not recorded."""
    found: dict[str, list[Moved]] = {SAME: [], OWN: []}
    for epoch in range(1, epochs + 1):
        path = epoch_file(folder, epoch)
        if not path.is_file():
            raise OptionError(f"no record of epoch {epoch} at {path}: train the host anew in another --out")
        with np.load(path, allow_pickle=False) as file:
            for kind, records in found.items():
                records.append(Moved(*(file[f"{kind}_{name}"] for name in Moved._fields)))
    return found


def regression_samples(records: dict[str, list[Moved]], weights: NDArray[np.int64]) -> Samples:
    """The systems of claim 7 on every row of weights [1 + R, I]. Raises OptionError below MIN_EPOCHS."""
    same, own = records[SAME], records[OWN]
    if len(same) < MIN_EPOCHS:
        raise OptionError(
            f"claim 7 compares epochs: it needs at least {MIN_EPOCHS}, the host had {len(same)}"
        )
    steps = [np.abs(b.after - a.after) for a, b in pairwise(same)]
    half = len(steps) // 2

    def mean_of(values: Array, of: Moved) -> Array:
        return mean_samples(values, of.image, weights)

    return {
        "mean change of IoU": {
            "no change": np.zeros(len(weights)),
            "own positives, last epoch": mean_of(own[-1].change, own[-1]),
            "same proposals, first epoch": mean_of(same[0].change, same[0]),
            "same proposals, last epoch": mean_of(same[-1].change, same[-1]),
        },
        "change between epochs": {
            "second half of training": mean_of(np.mean(steps[-half:], axis=0), same[0]),
            "first half of training": mean_of(np.mean(steps[:half], axis=0), same[0]),
        },
    }


def _same_proposals(batch: Batch, device: torch.device) -> Proposals:
    """Drawn from the image's id alone: those of every epoch and every detector."""
    drawn = []
    for image_id, boxed, target in zip(batch.image_ids, batch.letterboxed, batch.targets, strict=True):
        truths = target.boxes.numpy()
        boxes = jittered_boxes(truths, boxed.valid_hw, image_id)
        iou = pairwise_iou(boxes, truths).max(axis=1, initial=0.0)
        drawn.append(torch.from_numpy(boxes[iou >= POSITIVE_IOU].astype(np.float32)))
    longest = max(1, *(len(own) for own in drawn))
    padded = torch.zeros(len(drawn), longest, 4)
    valid = torch.zeros(len(drawn), longest, dtype=torch.bool)
    for row, own in enumerate(drawn):
        padded[row, : len(own)], valid[row, : len(own)] = own, True
    return Proposals(padded.to(device), valid.to(device))


def _moved(batch: Batch, places: list[int], proposals: Proposals, boxes: Tensor) -> list[Moved]:
    """Positive proposals, each held against the truth it overlaps most, before and after."""
    found = []
    for index, (place, target) in enumerate(zip(places, batch.targets, strict=True)):
        valid = proposals.valid[index].cpu().numpy()
        before = proposals.boxes[index].float().cpu().numpy()[valid]
        after = boxes[index].float().cpu().numpy()[valid]
        truths = target.boxes.numpy()
        iou = pairwise_iou(before, truths)
        rows = np.flatnonzero(iou.max(axis=1, initial=0.0) >= POSITIVE_IOU)
        own = truths[iou[rows].argmax(axis=1)] if len(rows) else truths[:0]
        found.append(
            Moved(
                np.full(len(rows), place, np.int64),
                overlap_with(before[rows], own).iou,
                overlap_with(after[rows], own).iou,
            )
        )
    return found
