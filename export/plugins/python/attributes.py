"""Attributes of a node: from and to TensorRT's plugin fields, checked by name and kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from export.plugins.python.operator import Value
from hindsight.errors import RuntimeFailure

# What a creator announces: name -> kind. The parser hands over only what is announced.
Kinds = Mapping[str, type]


def check_lists(trt: Any) -> None:
    """Raises RuntimeFailure where TensorRT's bindings misread a field of several values.

    Those before 10.16 were compiled for numpy 1: beside numpy 2 every value comes out as the first one, and
    the strides of a pyramid would all be its finest.
    """
    lists, _keep = serialised(trt, {"list": (1, 2, 3)})
    found = [int(number) for number in lists[0].data]
    if found != [1, 2, 3]:
        raise RuntimeFailure(
            f"the Python bindings of {trt.__name__} {trt.__version__} misread lists beside numpy "
            f"{np.__version__}, and our plugins with them: install TensorRT 10.16 or newer, or build with "
            "the C++ plugins (--plugin-library)"
        )


def announced(trt: Any, kinds: Kinds) -> tuple[Any, list[Any]]:
    """The PluginFieldCollection of a creator, and what must live as long as it."""
    examples: dict[type, Value] = {int: 0, float: 0.0, str: "", tuple: ()}
    return serialised(trt, {name: examples[kind] for name, kind in kinds.items()})


def serialised(trt: Any, values: Mapping[str, Value]) -> tuple[Any, list[Any]]:
    """A PluginFieldCollection of `values`, and what must live as long as it (TensorRT keeps addresses)."""
    arrays = [_array(trt, value) for value in values.values()]
    fields = [trt.PluginField(name, *array) for name, array in zip(values, arrays, strict=True)]
    return trt.PluginFieldCollection(fields), [arrays, fields]


def read(operator: str, kinds: Kinds, fields: Iterable[Any]) -> dict[str, Value]:
    """Values by name, of the kinds expected. Raises ValueError for one that is missing or of another kind."""
    found = {field.name: _value(operator, field) for field in fields if field.name in kinds}
    if missing := sorted(kinds.keys() - found.keys()):
        raise ValueError(f"{operator}: the node lacks the attribute {missing[0]!r}")
    return {name: _as_kind(operator, name, kind, found[name]) for name, kind in kinds.items()}


def _value(operator: str, field: Any) -> Value:
    kind = field.type.name
    if kind == "CHAR":
        return bytes(np.asarray(field.data).tobytes()).rstrip(b"\0").decode()
    if kind in ("INT32", "INT64"):
        return tuple(int(number) for number in field.data)
    if kind in ("FLOAT32", "FLOAT64"):
        numbers = [float(number) for number in field.data]
        if len(numbers) == 1:
            return numbers[0]
    raise ValueError(f"{operator}: attribute {field.name!r} has the type {kind} and {field.size} values")


def _as_kind(operator: str, name: str, kind: type, value: Value) -> Value:
    """Lists and single integers look the same in a field."""
    if kind is int and isinstance(value, tuple) and len(value) == 1:
        return value[0]
    if not isinstance(value, kind):
        raise ValueError(f"{operator}: expected attribute {name!r} to be {_NAMES[kind]}, got {value!r}")
    return value


_NAMES = {int: "an integer", float: "a number", str: "a text", tuple: "a list of integers"}


def _array(trt: Any, value: Value) -> tuple[np.ndarray[Any, Any], Any]:
    kinds = trt.PluginFieldType
    if isinstance(value, str):
        return np.frombuffer(value.encode(), dtype=np.int8), kinds.CHAR
    if isinstance(value, float):
        return np.array([value], dtype=np.float32), kinds.FLOAT32
    return np.atleast_1d(np.array(value, dtype=np.int32)), kinds.INT32
