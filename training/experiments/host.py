"""One host a seed: trained once, watched by claim 7, then frozen for claims 1 to 4."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint import load_checkpoint
from model.detector import TwoStageDetector
from training.data import Dataset
from training.experiments.files import file_digest
from training.loop import LAST, STATE, Run, train
from training.recipe import Recipe, RecipeError


@dataclass(frozen=True)
class Machine:
    """Where it runs; none of it changes what is learnt."""

    device: str = "cpu"
    workers: int = 2
    quiet: bool = False


def train_host(
    recipe: Recipe,
    train_set: Dataset,
    folder: Path,
    seed: int,
    weights: str,
    machine: Machine,
    watch: Callable[[TwoStageDetector, int], None] | None = None,
) -> Path:
    """The last epoch's checkpoint; a finished run is left as it is, a killed one goes on.

    Raises what training raises, CheckpointError if `folder` holds another run.
    """
    train(
        Run(
            recipe,
            train_set,
            folder,
            weights=weights,
            seed=seed,
            device=machine.device,
            workers=machine.workers,
            resume=(folder / STATE).exists(),
            quiet=machine.quiet,
            watch=watch,
        )
    )
    return folder / LAST


def load_host(path: Path, device: str) -> tuple[TwoStageDetector, str]:
    """(the host, its file's digest)."""
    return load_checkpoint(path)[0].to(device), file_digest(path)


def check_host(recipe: Recipe) -> None:
    """Raises RecipeError for a host whose heads could not be fitted apart from it."""
    config = recipe.detector_config(1)
    if config.localization is not None:
        raise RecipeError(f"the host {recipe.model!r} has a localization head: it must have none")
    if config.head.class_specific_first:
        raise RecipeError(
            "the host's regression must be class-agnostic: set detector.head.class_specific_first = false"
        )
