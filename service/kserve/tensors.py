"""Tensors as the protocol names them, checked before anything uses them.

A tensor comes as raw bytes (little-endian, row-major; each element of BYTES behind its length as a 4-byte
integer) or as a list of values. BYTES in JSON, which has no bytes, are base64 texts: the protocol leaves that
open.
"""

import base64
import binascii
import itertools
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import BadBody, TooManyImages

BYTES = "BYTES"
DTYPES: dict[str, np.dtype[Any]] = {
    "UINT8": np.dtype(np.uint8),
    "INT64": np.dtype("<i8"),
    "FP32": np.dtype("<f4"),
}
MAX_LISTED_VALUES = 4_000_000
"""Numbers in the lists of one request; more of them hold up the interpreter. Raw bytes have no such limit."""

Array = NDArray[Any]
Values = Array | list[bytes]
"""Of BYTES, the elements in row-major order."""


@dataclass(frozen=True)
class TensorSpec:
    """What a model takes or gives. shape: -1 where any size fits."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True)
class InputTensor:
    """A tensor as a client sent it. payload: raw bytes, or values in row-major order, nested or not."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    payload: memoryview | Sequence[Any]


@dataclass(frozen=True)
class OutputTensor:
    """A tensor to answer."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Values

    @classmethod
    def of(cls, name: str, array: Array) -> "OutputTensor":
        """A tensor of numbers: float32, int64 or uint8."""
        datatype = next(name for name, dtype in DTYPES.items() if dtype == array.dtype)
        return cls(name, datatype, array.shape, array)

    @property
    def listed_size(self) -> int:
        """About how many bytes it takes as JSON."""
        return 16 * (len(self.values) if isinstance(self.values, list) else self.values.size)

    def raw(self) -> bytes:
        """Its raw form."""
        if isinstance(self.values, list):
            return b"".join(struct.pack("<I", len(each)) + each for each in self.values)
        return np.ascontiguousarray(self.values, DTYPES[self.datatype]).tobytes()

    def listed(self) -> list[Any]:
        """Its values as JSON has them: flat, row-major. BYTES must be UTF-8."""
        if isinstance(self.values, list):
            return [each.decode() for each in self.values]
        flat: list[Any] = self.values.ravel().tolist()
        return flat


def check_inputs(
    specs: Sequence[TensorSpec], given: Sequence[InputTensor], max_images: int
) -> Mapping[str, Values]:
    """The values of each input, by name; an optional one that was not given is absent.

    Raises BadBody for an input that is unknown, missing, given twice, of another datatype or shape, or whose
    data do not have its size; TooManyImages where a first dimension passes `max_images`.
    """
    known = {spec.name: spec for spec in specs}
    found: dict[str, Values] = {}
    for tensor in given:
        if tensor.name not in known:
            raise BadBody(f"unknown input {tensor.name[:64]!r}; inputs are {', '.join(known)}")
        if tensor.name in found:
            raise BadBody(f"input {tensor.name} is given twice")
        _check_kind(known[tensor.name], tensor, max_images)
        found[tensor.name] = _values(tensor)
    missing = [spec.name for spec in specs if spec.name not in found and not spec.optional]
    if missing:
        raise BadBody(f"missing input {', '.join(missing)}")
    return found


def _check_kind(spec: TensorSpec, tensor: InputTensor, max_images: int) -> None:
    if tensor.datatype != spec.datatype:
        raise BadBody(f"input {spec.name}: expected datatype {spec.datatype}, got {tensor.datatype[:64]!r}")
    fits = len(tensor.shape) == len(spec.shape) and all(
        want in (-1, have) for want, have in zip(spec.shape, tensor.shape, strict=True)
    )
    if not fits:
        raise BadBody(f"input {spec.name}: expected shape {list(spec.shape)}, got {list(tensor.shape)[:8]}")
    if tensor.shape[0] == 0:
        raise BadBody(f"input {spec.name} is empty; expected at least one image")
    if tensor.shape[0] > max_images:
        raise TooManyImages(f"{tensor.shape[0]} images; at most {max_images} are accepted in one request")


def _values(tensor: InputTensor) -> Values:
    if isinstance(tensor.payload, memoryview):
        return _from_raw(tensor, tensor.payload)
    values = _flattened(tensor.payload, len(tensor.shape))
    if len(values) != math.prod(tensor.shape):
        raise _wrong_size(tensor, f"{len(values)} values")
    if tensor.datatype == BYTES:
        return [_bytes_of(tensor.name, value) for value in values]
    return _numbers(tensor, values)


def _from_raw(tensor: InputTensor, raw: memoryview) -> Values:
    if tensor.datatype == BYTES:
        return _split_bytes(tensor, raw)
    dtype = DTYPES[tensor.datatype]
    if raw.nbytes != math.prod(tensor.shape) * dtype.itemsize:
        raise _wrong_size(tensor, f"{raw.nbytes} bytes")
    return np.frombuffer(raw, dtype).reshape(tensor.shape)


def _split_bytes(tensor: InputTensor, raw: memoryview) -> list[bytes]:
    elements: list[bytes] = []
    position = 0
    for _ in range(math.prod(tensor.shape)):
        start = position + 4
        if start > raw.nbytes:
            raise _wrong_size(tensor, f"{len(elements)} elements in {raw.nbytes} bytes")
        end = start + int.from_bytes(raw[position:start], "little")
        if end > raw.nbytes:
            raise BadBody(f"input {tensor.name}: an element of {end - start} bytes in {raw.nbytes} bytes")
        elements.append(bytes(raw[start:end]))
        position = end
    if position != raw.nbytes:
        raise _wrong_size(tensor, f"{raw.nbytes - position} bytes more")
    return elements


def _wrong_size(tensor: InputTensor, what: str) -> BadBody:
    return BadBody(f"input {tensor.name}: shape {list(tensor.shape)} of {tensor.datatype} has {what}")


def _flattened(data: Sequence[Any], levels: int) -> Sequence[Any]:
    for _ in range(levels - 1):
        if not (data and all(isinstance(each, list) for each in data)):
            break
        data = list(itertools.chain.from_iterable(data))
    return data


def _numbers(tensor: InputTensor, values: Sequence[Any]) -> Array:
    dtype = DTYPES[tensor.datatype]
    allowed = {int, float} if dtype.kind == "f" else {int}
    others = {kind.__name__ for kind in set(map(type, values)) - allowed}
    if others:
        raise BadBody(f"input {tensor.name}: expected numbers of {tensor.datatype}, got {sorted(others)}")
    try:
        wide = np.array(values, np.float64 if dtype.kind == "f" else np.int64)
    except OverflowError:
        raise BadBody(f"input {tensor.name}: a number does not fit into {tensor.datatype}") from None
    if dtype.kind == "u" and wide.size and not (wide.min() >= 0 and wide.max() <= np.iinfo(dtype).max):
        raise BadBody(f"input {tensor.name}: a number does not fit into {tensor.datatype}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused where finite numbers are expected
        return wide.astype(dtype).reshape(tensor.shape)


def _bytes_of(name: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise BadBody(f"input {name}: expected base64 texts, got {type(value).__name__}")
    try:
        return base64.b64decode(
            value.partition(",")[2] if value.startswith("data:") else value, validate=True
        )
    except (binascii.Error, ValueError) as error:
        raise BadBody(f"input {name}: an element is not base64 ({error}); BYTES in JSON are base64") from None
