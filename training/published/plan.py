"""Which training runs a table needs: rows that differ at inference only share one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from training.published.data import Data
from training.published.recipes import missing, recipe_for, with_inference
from training.published.rows import Row
from training.recipe import Recipe, RecipeError

_KEY_DIGITS = 10


@dataclass(frozen=True)
class Changes:
    """What a run does otherwise than the paper: a small run's settings. None and empty: as the paper."""

    overrides: Mapping[str, Any] = field(default_factory=dict)  # nested as in a recipe
    optimisation: Mapping[str, Any] = field(default_factory=dict)  # epochs, batch_size, lr, amp
    weights: str = "imagenet"
    seed: int = 0


@dataclass(frozen=True)
class Training:
    """One training run and the rows that are measured on it. `key` names its folder."""

    key: str
    recipe: Recipe
    rows: tuple[Row, ...]


def plan(rows: Sequence[Row], changes: Changes, data: Data) -> tuple[list[Training], dict[int, str]]:
    """The training runs in the order of their first rows, and why rows (by number) can't be run here.

    Raises RecipeError where the changes do not fit a row.
    """
    groups: dict[str, Training] = {}
    left_out: dict[int, str] = {}
    for row in rows:
        lack = missing(row)
        if lack is not None:
            left_out[row.number] = lack
            continue
        recipe = _recipe(row, changes)
        with_inference(recipe.detector_config(len(data.training.class_names)), row.inference)
        key = _key(recipe, changes, data)
        known = groups.get(key, Training(key, recipe, ()))
        groups[key] = replace(known, rows=(*known.rows, row))
    return list(groups.values()), left_out


def deviations(row: Row, recipe: Recipe, changes: Changes, data: Data) -> list[str]:
    """What keeps our figure from being comparable with the paper's, one phrase each; empty: nothing known."""
    papers = recipe_for(row).optimisation
    found = [
        f"{name} {getattr(recipe.optimisation, name):g}, the paper's schedule has {getattr(papers, name):g}"
        for name in ("epochs", "batch_size", "lr")
        if getattr(recipe.optimisation, name) != getattr(papers, name)
    ]
    if changes.overrides:
        found.append("another detector or recipe: --overrides")
    if changes.weights == "none":
        found.append("backbone without ImageNet weights")
    return found + data.differences(row.data)


def _recipe(row: Row, changes: Changes) -> Recipe:
    recipe = recipe_for(row, changes.overrides)
    try:
        return replace(recipe, optimisation=replace(recipe.optimisation, **changes.optimisation))
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _key(recipe: Recipe, changes: Changes, data: Data) -> str:
    what = {
        "recipe": asdict(recipe),
        "seed": changes.seed,
        "weights": changes.weights,
        "images": [record.path.name for record in data.training.records],
        "classes": data.training.class_names,
    }
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
    return f"{recipe.model}-{recipe.backbone}-{digest[:_KEY_DIGITS]}"
