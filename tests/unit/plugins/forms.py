"""The two forms of the plugins behind one face, so that the same tests hold for both.

`PythonForm`: the operators behind the Python plugins, whose kernels run on the host grid through the adapter
itself where tensorrt_rtx is. `CppForm`: the C++ plugins, through host_plugins.cpp.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from export.plugins.python.operator import Operator, Tensor, Value
from export.plugins.python.register import KINDS

TYPES = {"FLOAT": 0, "HALF": 1, "INT8": 2, "INT32": 3, "BOOL": 4, "UINT8": 5, "BF16": 7, "INT64": 8}
FORMATS = {"LINEAR": 0, "CHW2": 1, "HWC8": 2, "CHW4": 3, "CHW16": 4, "CHW32": 5, "HWC": 8, "HWC16": 11}
FIELD_TYPES = {"FLOAT32": 1, "INT32": 5, "CHAR": 6, "INT64": 10}
KINDS_OF_FIELDS = {"FLOAT32": "number", "INT32": "integers", "CHAR": "text"}
DTYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "BOOL": torch.bool}
NAMES = {dtype: name for name, dtype in DTYPES.items()}

Shape = Sequence[int | None]  # None: not known


class Made(Protocol):
    """A plugin with its attributes. What it refuses it raises as ValueError."""

    def supports(self, position: int, tensors: Sequence[Tensor], inputs: int) -> bool: ...
    def output_types(self, types: Sequence[str]) -> list[str]: ...
    def output_shapes(self, shapes: Sequence[Shape]) -> list[list[int | None]]: ...
    def workspace(self, shapes: Sequence[tuple[int, ...]]) -> int: ...
    def values(self) -> dict[str, Value]: ...


class Form(Protocol):
    """How plugins are made."""

    def announced(self) -> dict[str, dict[str, str]]: ...
    def make(self, name: str, values: Mapping[str, Value]) -> Made: ...


class _KnownSizes:
    """`Sizes` on numbers; None where one is not known."""

    def constant(self, value: int) -> Any:
        return value

    def product(self, first: Any, second: Any) -> Any:
        return None if first is None or second is None else first * second

    def known(self, size: Any) -> int | None:
        return size  # type: ignore[no-any-return]


@dataclass(frozen=True)
class PythonMade:
    operator: Operator

    def supports(self, position: int, tensors: Sequence[Tensor], inputs: int) -> bool:
        return self.operator.supports(position, tensors)

    def output_types(self, types: Sequence[str]) -> list[str]:
        return self.operator.output_types(types)

    def output_shapes(self, shapes: Sequence[Shape]) -> list[list[int | None]]:
        return self.operator.output_shapes(shapes, _KnownSizes())

    def workspace(self, shapes: Sequence[tuple[int, ...]]) -> int:
        return self.operator.workspace_bytes(shapes)

    def values(self) -> dict[str, Value]:
        return dict(self.operator.attributes())


class PythonForm:
    """export/plugins/python, all but TensorRT's interfaces (test_adapter.py has those)."""

    _names = {int: "integers", tuple: "integers", float: "number", str: "text"}  # noqa: RUF012

    def announced(self) -> dict[str, dict[str, str]]:
        return {
            kind.name: {name: self._names[type_] for name, type_ in kind.attributes.items()} for kind in KINDS
        }

    def make(self, name: str, values: Mapping[str, Value]) -> PythonMade:
        (kind,) = (kind for kind in KINDS if kind.name == name)
        return PythonMade(kind.make(values))


class _Field(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


class _Fields(ctypes.Structure):
    _fields_ = (("count", ctypes.c_int32), ("fields", ctypes.POINTER(_Field)))


class _Described(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32),
        ("format", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("sizes", ctypes.c_int64 * 8),
    )


def _described(tensors: Sequence[Tensor]) -> Any:
    found = (_Described * max(len(tensors), 1))()
    for place, tensor in zip(found, tensors, strict=False):
        place.type, place.format = TYPES[tensor.dtype], FORMATS[tensor.format]
        place.rank = len(tensor.shape)
        place.sizes[: place.rank] = [-1 if size is None else size for size in tensor.shape]
    return found


def _shapes(shapes: Sequence[Any]) -> Any:
    return _described([Tensor("FLOAT", "LINEAR", tuple(shape)) for shape in shapes])


class CppMade:
    def __init__(self, library: ctypes.CDLL, plugin: int) -> None:
        self.library, self.plugin = library, ctypes.c_void_p(plugin)

    def __del__(self) -> None:
        self.library.destroy(self.plugin)

    def _error(self) -> ValueError:
        return ValueError(self.library.last_error().decode())

    def supports(self, position: int, tensors: Sequence[Tensor], inputs: int) -> bool:
        outputs = max(1, position + 1 - inputs)
        return bool(self.library.supports(self.plugin, position, _described(tensors), inputs, outputs))

    def output_types(self, types: Sequence[str]) -> list[str]:
        given, found = (ctypes.c_int32 * len(types))(*(TYPES[t] for t in types)), (ctypes.c_int32 * 4)()
        if (count := self.library.output_types(self.plugin, given, len(types), found)) < 0:
            raise self._error()
        return [name for value in found[:count] for name, number in TYPES.items() if number == value]

    def output_shapes(self, shapes: Sequence[Shape]) -> list[list[int | None]]:
        found = (_Described * 4)()
        if (count := self.library.output_shapes(self.plugin, _shapes(shapes), len(shapes), found)) < 0:
            raise self._error()
        return [[None if size < 0 else size for size in each.sizes[: each.rank]] for each in found[:count]]

    def workspace(self, shapes: Sequence[tuple[int, ...]], profile: bool = False) -> int:
        return int(self.library.workspace(self.plugin, _shapes(shapes), len(shapes), int(profile)))

    def values(self) -> dict[str, Value]:
        return _read(self.library.fields_of(self.plugin).contents)

    def run(
        self, tensors: Sequence[Tensor], results: Sequence[Tensor], data: Sequence[int], found: Sequence[int]
    ) -> str:
        """The name of the kernel that ran. `data`, `found`: addresses of inputs and outputs."""
        memory = torch.empty(self.workspace([tensor.shape for tensor in tensors]) + 16, dtype=torch.uint8)
        status = self.library.run(
            self.plugin,
            *(_described(tensors), len(tensors), _described(results), len(results)),
            *((ctypes.c_void_p * len(data))(*data), (ctypes.c_void_p * len(found))(*found)),
            ctypes.c_void_p(memory.data_ptr()),
        )
        if status:
            raise self._error()
        name: str = self.library.last_kernel().decode()
        return name


class CppForm:
    """export/plugins/cpp."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        for name in ("make",):
            getattr(library, name).restype = ctypes.c_void_p
        for name in ("creator_name", "creator_namespace", "creator_version", "last_error", "last_kernel"):
            getattr(library, name).restype = ctypes.c_char_p
        library.name_of.restype = library.timing_id_of.restype = ctypes.c_char_p
        library.creator_fields.restype = library.fields_of.restype = ctypes.POINTER(_Fields)
        library.workspace.restype = ctypes.c_longlong
        self.names = [library.creator_name(index).decode() for index in range(library.creator_count())]

    def announced(self) -> dict[str, dict[str, str]]:
        kinds = {number: KINDS_OF_FIELDS.get(name, name) for name, number in FIELD_TYPES.items()}
        found = {}
        for index, name in enumerate(self.names):
            fields = self.library.creator_fields(index).contents
            found[name] = {
                fields.fields[i].name.decode(): kinds[fields.fields[i].type] for i in range(fields.count)
            }
        return found

    def make(self, name: str, values: Mapping[str, Value]) -> CppMade:
        arrays = [_array(value) for value in values.values()]
        fields = (_Field * max(len(values), 1))()
        for field, key, (array, kind) in zip(fields, values, arrays, strict=False):
            field.name, field.data = key.encode(), array.ctypes.data
            field.type, field.length = FIELD_TYPES[kind], array.size
        given = _Fields(len(values), fields)
        plugin = self.library.make(self.names.index(name), ctypes.byref(given))
        if not plugin:
            raise ValueError(self.library.last_error().decode())
        return CppMade(self.library, plugin)


def _array(value: Value) -> tuple[np.ndarray[Any, Any], str]:
    if isinstance(value, str):
        return np.frombuffer(value.encode(), dtype=np.int8), "CHAR"
    if isinstance(value, float):
        return np.array([value], dtype=np.float32), "FLOAT32"
    return np.atleast_1d(np.array(value, dtype=np.int32)), "INT32"


def _read(fields: _Fields) -> dict[str, Value]:
    """Values by name; an integer is a list of one."""
    found: dict[str, Value] = {}
    for field in fields.fields[: fields.count]:
        if field.type == FIELD_TYPES["CHAR"]:
            value: Value = ctypes.string_at(field.data, field.length).decode()
        elif field.type == FIELD_TYPES["FLOAT32"]:
            value = float(ctypes.cast(field.data, ctypes.POINTER(ctypes.c_float))[0])
        else:
            value = tuple(ctypes.cast(field.data, ctypes.POINTER(ctypes.c_int32))[: field.length])
        found[field.name.decode()] = value
    return found
