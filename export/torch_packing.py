"""Many arrays in one buffer of bytes: what crosses between host and GPU crosses in one copy each way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ALIGNMENT = 256  # of inputs: what cudaMalloc itself gives, so that no kernel meets a worse address
_TYPES = {
    name: (np.dtype(name), getattr(torch, name)) for name in ("uint8", "int32", "int64", "float16", "float32")
}


@dataclass(frozen=True)
class Field:
    """One array; its bytes begin at `offset`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int

    @property
    def end(self) -> int:
        """Where its bytes end."""
        return self.offset + math.prod(self.shape) * _TYPES[self.dtype][0].itemsize


@dataclass(frozen=True)
class Layout:
    """Where each array lies. Equal for equal names, types and shapes, so it also tells buckets apart."""

    fields: tuple[Field, ...]

    @property
    def bytes(self) -> int:
        """Size of the buffer."""
        return max((field.end for field in self.fields), default=0)

    def arrays(self, buffer: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The arrays as views of `buffer` [bytes]."""
        return {
            field.name: buffer[field.offset : field.end].view(_TYPES[field.dtype][0]).reshape(field.shape)
            for field in self.fields
        }

    def tensors(self, buffer: Tensor) -> dict[str, Tensor]:
        """The same as views of a tensor uint8 [bytes]."""
        return {
            field.name: buffer[field.offset : field.end].view(_TYPES[field.dtype][1]).reshape(field.shape)
            for field in self.fields
        }


def layout_of(arrays: Mapping[str, NDArray[Any]]) -> Layout:
    """A place for each array. Raises ValueError for a type that no graph takes."""
    described = ((name, values.dtype.name, values.shape) for name, values in arrays.items())
    return Layout(tuple(_placed(described, _ALIGNMENT)))


def tensor_of(values: NDArray[Any]) -> Tensor:
    """On the CPU, sharing memory where torch can: it takes neither read-only nor scattered arrays."""
    whole = np.ascontiguousarray(values)
    return torch.from_numpy(whole if whole.flags.writeable else whole.copy())


def packed(outputs: Mapping[str, Tensor]) -> tuple[Tensor, Layout]:
    """All tensors in one uint8 [bytes] on their device, widest elements first so that each is aligned."""
    order = sorted(outputs.items(), key=lambda item: -item[1].element_size())
    described = (
        (name, str(values.dtype).removeprefix("torch."), tuple(values.shape)) for name, values in order
    )
    layout = Layout(tuple(_placed(described, 1)))
    flat = [values.contiguous().reshape(-1).view(torch.uint8) for _, values in order]
    return torch.cat(flat), layout


def _placed(described: Iterable[tuple[str, str, tuple[int, ...]]], alignment: int) -> Iterator[Field]:
    offset = 0
    for name, dtype, shape in described:
        field = Field(name, _known(dtype), shape, -(-offset // alignment) * alignment)
        yield field
        offset = field.end


def _known(dtype: str) -> str:
    if dtype not in _TYPES:
        raise ValueError(f"expected one of {', '.join(_TYPES)}, got {dtype}")
    return dtype
