"""`--freeze-host`: only a localization head is trained, on a detector that stays bit for bit as it is.

The cheap way to purity, integrity and IoU for a detector that one has: no gradient reaches the host, so a
step costs a forward pass and a few fully connected layers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hindsight.artifact import ResizeRule
from model.checkpoint import load_checkpoint
from model.config import LocalizationConfig
from model.detector import TwoStageDetector
from training.recipe import Recipe, RecipeError
from training.trained_for import classes_and_resize


@dataclass(frozen=True)
class FrozenHost:
    """A checkpoint to build on. `sha256` tells a resumed run that it is still the same one."""

    path: Path
    sha256: str
    class_names: tuple[str, ...]
    resize: ResizeRule
    extra: Mapping[str, Any]
    has_localization: bool

    def about(self) -> dict[str, Any]:
        """What checkpoints of the run say of their host."""
        own = {"frozen_host": {"checkpoint": self.path.name, "sha256": self.sha256}}
        return own | {key: self.extra[key] for key in ("recipe", "imported") if key in self.extra}

    def applied(self, recipe: Recipe) -> Recipe:
        """`recipe` at the image size that the host was trained for."""
        return replace(recipe, resize=self.resize)


def open_host(path: Path) -> FrozenHost:
    """Raises CheckpointError for what is no checkpoint, or names neither its classes nor its resize rule."""
    detector, extra = load_checkpoint(path)
    names, rule = classes_and_resize(path, extra)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return FrozenHost(path, digest, names, rule, extra, detector.localization is not None)


def detector_on(host: FrozenHost, recipe: Recipe) -> TwoStageDetector:
    """The host, frozen, with its own localization head or else a new one of the recipe's kind.

    Raises CheckpointError, and RecipeError where the host can have no such head.
    """
    detector, _ = load_checkpoint(host.path)
    if detector.localization is None:
        wanted = recipe.detector_config(detector.config.num_classes).localization or LocalizationConfig()
        try:
            grown = TwoStageDetector(replace(detector.config, localization=wanted))
        except ValueError as error:
            raise RecipeError(f"{host.path}: {error}") from error
        missing, unexpected = grown.load_state_dict(detector.state_dict(), strict=False)
        assert not unexpected and all(key.startswith("localization.") for key in missing)
        detector = grown
    detector.freeze_host()
    return detector
