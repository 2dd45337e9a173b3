"""From samples to the detector's input: letterbox each, pad to a common size, stack.

B: images; H, W: the batch's padded height and width; g, c: objects and ignored regions of one image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from hindsight.artifact import ResizeRule
from hindsight.datasets.shapes import Points, pack
from hindsight.preprocess import Letterboxed, boxes_to_input, letterbox
from model.masks import InstanceMasks
from model.structures import Target
from training.data.sample import Sample
from training.data.semantic import semantic_to_input


@dataclass(frozen=True, eq=False)
class Prepared:
    """A letterboxed sample; boxes in input pixels."""

    letterboxed: Letterboxed
    boxes: NDArray[np.float32]  # [n, 4] xyxy, input pixels
    labels: NDArray[np.int64]  # [n]
    crowd: NDArray[np.bool_]  # [n]
    image_id: int
    # bitmaps of the boxes that are no crowds, as InstanceMasks takes them; None without masks
    masks: tuple[NDArray[np.uint8], NDArray[np.int64]] | None = None
    semantic: NDArray[np.uint8] | None = None  # at the valid size


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step takes; `image_sizes` are each image's valid (height, width)."""

    images: UInt8[Tensor, "B H W 3"]
    image_sizes: Int64[Tensor, "B 2"]
    targets: list[Target]
    image_ids: tuple[int, ...]
    letterboxed: tuple[Letterboxed, ...]  # they map the detections back to original pixels

    def __len__(self) -> int:
        return len(self.image_ids)

    def split(self, parts: int) -> list[Batch]:
        """At most `parts` smaller batches, as even as can be, padded as this one is."""
        size = -(-len(self) // max(parts, 1))
        return [
            Batch(
                self.images[at : at + size],
                self.image_sizes[at : at + size],
                self.targets[at : at + size],
                self.image_ids[at : at + size],
                self.letterboxed[at : at + size],
            )
            for at in range(0, len(self), size)
        ]


def prepare(sample: Sample, rule: ResizeRule) -> Prepared:
    """Letterboxes the sample and moves its boxes along, with the functions that serving uses."""
    boxed = letterbox(np.ascontiguousarray(sample.pixels), rule)
    boxes = boxes_to_input(sample.boxes, boxed)
    semantic = None if sample.semantic is None else semantic_to_input(sample.semantic, boxed)
    masks = _bitmaps(sample, boxed)
    return Prepared(boxed, boxes, sample.labels, sample.crowd, sample.image_id, masks, semantic)


def _bitmaps(sample: Sample, boxed: Letterboxed) -> tuple[NDArray[np.uint8], NDArray[np.int64]] | None:
    """Drawn at the input's scale, so that they are as sharp as the image."""
    if sample.shapes is None:
        return None

    def move(points: Points) -> Points:
        return boxes_to_input(np.concatenate([points, points], axis=1), boxed)[:, :2]

    objects = zip(sample.shapes, sample.crowd, strict=True)
    return pack([shape.moved(move) for shape, crowd in objects if not crowd], boxed.valid_hw)


def collate(samples: Sequence[Prepared]) -> Batch:
    """Stacks letterboxed samples, zero-padded bottom and right to the largest height and width."""
    if not samples:
        raise ValueError("collate expects at least one sample")
    height = max(sample.letterboxed.image.shape[0] for sample in samples)
    width = max(sample.letterboxed.image.shape[1] for sample in samples)
    images = np.zeros((len(samples), height, width, 3), dtype=np.uint8)
    for row, sample in zip(images, samples, strict=True):
        h, w = sample.letterboxed.image.shape[:2]
        row[:h, :w] = sample.letterboxed.image
    return Batch(
        images=torch.from_numpy(images),
        image_sizes=torch.tensor([sample.letterboxed.valid_hw for sample in samples], dtype=torch.int64),
        targets=[_target(sample) for sample in samples],
        image_ids=tuple(sample.image_id for sample in samples),
        letterboxed=tuple(sample.letterboxed for sample in samples),
    )


def _target(sample: Prepared) -> Target:
    boxes = torch.from_numpy(np.array(sample.boxes, dtype=np.float32).reshape(-1, 4))
    crowd = torch.from_numpy(np.array(sample.crowd, dtype=np.bool_))
    labels = torch.from_numpy(np.array(sample.labels, dtype=np.int64))
    masks = None
    if sample.masks is not None:
        pixels, frames = sample.masks
        masks = InstanceMasks(torch.from_numpy(pixels), torch.from_numpy(frames))
    semantic = None if sample.semantic is None else torch.from_numpy(sample.semantic)
    return Target(boxes[~crowd], labels[~crowd], boxes[crowd], masks, semantic)
