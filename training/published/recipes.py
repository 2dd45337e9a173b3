"""From a published row to what is trained and what is run: recipe, detector, inference."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

from hindsight.errors import HindsightError
from model.config import DetectorConfig
from model.zoo import MODELS, config_of
from training.published.rows import Inference, Row
from training.recipe import Recipe, RecipeError, override, read_recipe, recipe_of

_COCO_CLASSES = 80


class NotInThisBuild(HindsightError):
    """The row needs a detector or a setting that this version does not have."""


def missing(row: Row) -> str | None:
    """What keeps a row from being run here; None where nothing does."""
    if row.model is None:
        return "its system is another work's, which the paper quotes"
    if row.model not in MODELS:
        return f"it needs the detector {row.model!r}, which this build does not have"
    settings = merged(row.training, {"detector": row.inference.detector})
    for path in _paths(settings):
        if not _is_setting(path):
            return f"it needs the setting {'.'.join(path)}, which this build does not have"
    return None


def recipe_for(row: Row, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """What the row trains: its schedule, its own settings, then `overrides`, nested as in a recipe's TOML.

    A [detector.localization] among the overrides is left out for a detector without that head. Equal
    trainings give equal recipes, however they were written: `detector` holds only what differs from the
    named model. Raises NotInThisBuild, and RecipeError for settings that do not fit together.
    """
    lack = missing(row)
    if lack is not None:
        raise NotInThisBuild(f"{row} can't be run: {lack}")
    own = merged(read_recipe(row.schedule), {"model": row.model, "backbone": row.backbone}, row.training)
    recipe = recipe_of(own, str(row))
    if overrides:
        if recipe.detector_config(_COCO_CLASSES).localization is None:
            overrides = _without_localization(overrides)
        recipe = recipe_of(merged(own, overrides), str(row))
    plain = config_of(recipe.model, _COCO_CLASSES, backbone=recipe.backbone)
    return replace(recipe, detector=differences(plain, recipe.detector_config(_COCO_CLASSES)))


def with_inference(config: DetectorConfig, inference: Inference) -> DetectorConfig:
    """`config` as the row runs it. Raises RecipeError."""
    try:
        return override(config, inference.detector, "detector")
    except (ValueError, TypeError) as error:
        raise RecipeError(str(error)) from error


def merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings laid over each other, the last on top."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            both = isinstance(below, Mapping) and isinstance(value, Mapping)
            result[key] = merged(below, value) if both else value  # type: ignore[arg-type]
    return result


def differences(plain: object, changed: object) -> dict[str, Any]:
    """The settings of one dataclass that differ from another's, nested."""
    found: dict[str, Any] = {}
    for f in fields(plain):  # type: ignore[arg-type]
        a, b = getattr(plain, f.name), getattr(changed, f.name)
        if a == b:
            continue
        if is_dataclass(a) and is_dataclass(b):
            found[f.name] = differences(a, b)
        else:
            found[f.name] = asdict(b) if is_dataclass(b) and not isinstance(b, type) else b
    return found


def _without_localization(overrides: Mapping[str, Any]) -> dict[str, Any]:
    detector = {k: v for k, v in overrides.get("detector", {}).items() if k != "localization"}
    return {**overrides, "detector": detector}


def _paths(settings: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _paths(value, (*above, name))
        else:
            yield (*above, name)


def _is_setting(path: tuple[str, ...]) -> bool:
    """Whether recipes of this build have that key; [detector] is checked against the detector's config."""
    kind: Any = Recipe
    for name in path:
        if not is_dataclass(kind):
            return False
        hints = typing.get_type_hints(kind)
        if name not in hints:
            return False
        if kind is Recipe and name == "detector":
            kind = DetectorConfig
        else:
            options = typing.get_args(hints[name]) or (hints[name],)
            kind = next((option for option in options if is_dataclass(option)), None)
    return True
