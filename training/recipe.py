"""A recipe: what a training run is made of, as frozen dataclasses read from TOML. A typo raises at once."""

from __future__ import annotations

import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from hindsight.artifact import ResizeRule
from hindsight.errors import HindsightError
from model.config import DetectorConfig
from model.zoo import config_of
from training.data import Augment

RECIPES = Path(__file__).parent / "recipes"
T = TypeVar("T")


class RecipeError(HindsightError):
    """The recipe says something that can't be done; the message names the key and what was expected."""


@dataclass(frozen=True)
class Optimisation:
    """`optimiser` "sgd" (the papers') or "adamw" (`momentum` is its first beta), with warm-up.

    `schedule`: "step" (x gamma after each of `milestones`) or "cosine" (to 0). lr is for this batch size;
    nothing rescales it. `amp`: "off", "bf16" or "fp16" (CUDA only). With an `ema_decay` above 0 the moving
    average of the weights is what is validated and saved. `clip_norm` bounds the gradient's norm. A batch
    goes through the detector in `accumulate` parts, for memory that holds only a part.
    `localization_lr_factor` multiplies lr for the localization head (DIR Table 3's "3 x lr").
    """

    optimiser: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 1e-4
    batch_size: int = 8
    epochs: int = 12
    warmup_steps: int = 500
    warmup_factor: float = 1 / 3
    schedule: str = "step"
    milestones: tuple[int, ...] = (8, 11)
    gamma: float = 0.1
    clip_norm: float = 35.0
    ema_decay: float = 0.0
    amp: str = "off"
    accumulate: int = 1
    localization_lr_factor: float = 1.0

    def __post_init__(self) -> None:
        if self.optimiser not in ("sgd", "adamw"):
            raise ValueError(f'optimiser must be "sgd" or "adamw", got {self.optimiser!r}')
        if self.schedule not in ("step", "cosine"):
            raise ValueError(f'schedule must be "step" or "cosine", got {self.schedule!r}')
        if self.amp not in ("off", "bf16", "fp16"):
            raise ValueError(f'amp must be "off", "bf16" or "fp16", got {self.amp!r}')
        for name in ("lr", "batch_size", "epochs", "clip_norm", "accumulate", "localization_lr_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True)
class Recipe:
    """`model` names a factory of model/zoo.py; `detector` holds what differs from it, section by section."""

    model: str = "hindsight"
    backbone: str = "resnet50"
    detector: Mapping[str, Any] = field(default_factory=dict)
    resize: ResizeRule = field(default_factory=lambda: ResizeRule(800, 1333))
    augment: Augment = field(default_factory=Augment)
    optimisation: Optimisation = field(default_factory=Optimisation)
    validate_every: int = 1  # epochs
    # Images with a class that fewer than this share of all images hold are shown more often (repeat-factor
    # sampling); 0: every image once an epoch
    repeat_threshold: float = 0.0

    def detector_config(self, num_classes: int) -> DetectorConfig:
        """The detector this recipe trains. Raises RecipeError."""
        try:
            config = config_of(self.model, num_classes, backbone=self.backbone)
            return override(config, self.detector, "detector")
        except (ValueError, TypeError) as error:
            raise RecipeError(str(error)) from error


def load_recipe(name_or_path: str) -> Recipe:
    """A TOML file, or the name of one in training/recipes. Raises RecipeError."""
    return recipe_of(read_recipe(name_or_path), Path(name_or_path).name)


def read_recipe(name_or_path: str) -> dict[str, Any]:
    """The values of a TOML file, or of the one of that name in training/recipes, unchecked. RecipeError."""
    path = Path(name_or_path)
    if not path.suffix:
        path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise RecipeError(f"no recipe {name_or_path!r}: expected a .toml file or one of {known}")
    try:
        return tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def recipe_of(values: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that `values`, nested as in TOML, describe; `where` names them in a RecipeError."""
    try:
        recipe = override(Recipe(), values, where)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{where}: {error}") from error
    recipe.detector_config(1)  # so that a typo in [detector] raises here, not after the data is read
    return recipe


def override(instance: T, values: Mapping[str, Any], where: str) -> T:
    """`instance` with `values` laid over it, dataclass by dataclass; an unknown key names the nearest."""
    known = {f.name: f for f in fields(instance)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(type(instance))
    changes: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise RecipeError(f"{where} has no key {key!r}: {hint}")
        changes[key] = _value(getattr(instance, key), hints[key], value, f"{where}.{key}")
    return replace(instance, **changes)  # type: ignore[type-var]


def _value(current: Any, hint: Any, value: Any, where: str) -> Any:
    if isinstance(value, Mapping) and is_dataclass(current):
        return override(current, value, where)
    if isinstance(value, list):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    allowed = tuple(typing.get_origin(o) or o for o in options)
    if float in allowed and type(value) is int:
        return float(value)
    if not isinstance(value, allowed) or (type(value) is bool and bool not in allowed):
        names = " or ".join(getattr(o, "__name__", str(o)) for o in allowed)
        raise RecipeError(f"{where} must be {names}, got {value!r}")
    return value
