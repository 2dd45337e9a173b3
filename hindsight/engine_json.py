"""Frozen dataclasses from parsed JSON, strictly: engine.json is read back as exactly what was written."""

from __future__ import annotations

import dataclasses
import math
import types
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

__all__ = ["build"]

T = TypeVar("T")


def build(kind: type[T], document: object) -> T:
    """An instance of the dataclass `kind` from a JSON object.

    Fields may be str, bool, int, float, dataclasses, tuples and dicts of one kind, and unions of these with
    None. Raises ValueError on a missing, unknown or ill-typed field, naming it.
    """
    return _value(kind, document, kind.__name__)  # type: ignore[no-any-return]


def _value(kind: Any, value: object, where: str) -> Any:
    origin = get_origin(kind)
    if origin is types.UnionType:
        if value is None and type(None) in get_args(kind):
            return None
        (kind,) = (part for part in get_args(kind) if part is not type(None))
        return _value(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, got {value!r:.60}")
        return tuple(_value(get_args(kind)[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        items = _object(value, where)
        return {key: _value(get_args(kind)[1], item, f"{where}.{key}") for key, item in items.items()}
    if dataclasses.is_dataclass(kind):
        return _instance(kind, _object(value, where), where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(value)):  # type: ignore[arg-type]
        raise ValueError(f"{where} must be {kind.__name__}, got {value!r:.60}")
    return value


def _instance(kind: Any, items: dict[str, Any], where: str) -> Any:
    fields = {field.name: field for field in dataclasses.fields(kind)}
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    missing, unknown = sorted(required - set(items)), sorted(set(items) - set(fields))
    if missing or unknown:
        raise ValueError(f"{where}: missing fields {missing}, unknown fields {unknown}")
    hints = get_type_hints(kind)
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in items.items()})


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {value!r:.60}")
    return value
