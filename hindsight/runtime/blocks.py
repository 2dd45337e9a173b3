"""The inputs of an execution as one block of memory, and its outputs as another: each is copied at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.runtime.buckets import Step

__all__ = ["IMAGES", "BlockTensor", "copied_bytes", "fill", "place"]

IMAGES = "images"
_FOR_ALL_IMAGES = "nms_threshold"
_ALIGNMENT = 256  # bytes, of tensors in device memory
# What stands in for an image that a batch lacks: one pixel, and thresholds that no detection passes.
_BLANK = {"image_sizes": 1, "class_threshold": 2, "score_threshold": 2}


@dataclass(frozen=True)
class BlockTensor:
    """A tensor at `offset` bytes of a block; `end` is where it ends."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def within(self, block: NDArray[np.uint8]) -> NDArray[Any]:
        """Its values, as a view of the block uint8 [n]."""
        return block[self.offset : self.end].view(self.dtype).reshape(self.shape)


def place(
    shapes: Mapping[str, tuple[int, ...]], dtypes: Mapping[str, np.dtype[Any]]
) -> tuple[BlockTensor, ...]:
    """Lay tensors one after the other."""
    tensors: list[BlockTensor] = []
    for name, shape in shapes.items():
        offset = -(-tensors[-1].end // _ALIGNMENT) * _ALIGNMENT if tensors else 0
        tensors.append(BlockTensor(name, shape, dtypes[name], offset))
    return tuple(tensors)


def fill(
    block: NDArray[np.uint8],
    tensors: Sequence[BlockTensor],
    inputs: Mapping[str, NDArray[Any]],
    step: Step,
    batch: int,
) -> None:
    """Copy the step's images and what belongs to them into the block; blank ones make up the batch."""
    rows = slice(step.first, step.first + step.count)
    for tensor in tensors:
        target, given = tensor.within(block), inputs[tensor.name]
        if tensor.name == _FOR_ALL_IMAGES or tensor.shape[:1] != (batch,):
            if len(given):
                target[:] = given
            continue
        given = given[rows]
        target[(slice(0, step.count), *(slice(0, side) for side in given.shape[1:]))] = given
        if tensor.name == IMAGES:
            continue  # the graph blanks pixels beyond image_sizes: blank images may hold anything
        target[step.count :] = _BLANK.get(tensor.name, 0)
        for axis, side in enumerate(given.shape[1:], start=1):  # boxes beyond num_boxes: anything finite
            target[(slice(None),) * axis + (slice(side, None),)] = 0


def copied_bytes(tensors: Sequence[BlockTensor], step: Step) -> int:
    """How much of a filled block the GPU needs: not the pixels of blank images, where images come last."""
    last = tensors[-1]
    if last.name != IMAGES:
        return last.end
    return last.offset + math.prod(last.shape[1:]) * last.dtype.itemsize * step.count
