"""A claim from data to result. Every part that takes long is kept in `out` and not run again.

In `out`: seedN/host (a training run), seedN/regression (claim 7's record), seedN/heads, seedN/table.npz,
samples/ (AP of resamples), detectors/seedN/ARM (claims 5 and 6), pilot/ (the same of a pilot).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from training.data import Dataset
from training.evaluation.predict import Progress
from training.experiments.bootstrap import image_weights
from training.experiments.claims import Claim
from training.experiments.detectors import arm_samples
from training.experiments.files import file_digest
from training.experiments.heads import fit_heads, steps_of
from training.experiments.host import Machine, check_host, load_host, train_host
from training.experiments.judging import Samples, correlations, rankings, stacked
from training.experiments.regression import (
    WATCHED_IMAGES,
    Moved,
    RegressionWatch,
    load_epochs,
    regression_samples,
)
from training.experiments.results import ClaimResult, HalfWidths, decide
from training.experiments.scoring import write_table
from training.experiments.table import RowTable, load_table
from training.machine import commit, hardware
from training.recipe import Recipe

Bar = Callable[[str, int], AbstractContextManager[Progress]]


@dataclass(frozen=True)
class Study:
    """One data set and how it is studied. `recipe`: the host's, or the base of claims 5 and 6."""

    data: str
    train_set: Dataset
    test_set: Dataset
    recipe: Recipe
    heads: Recipe
    out: Path
    seeds: tuple[int, ...] = (0, 1)
    resamples: int = 2000
    weights: str = "imagenet"
    machine: Machine = field(default_factory=Machine)
    say: Callable[[str], None] = lambda message: None
    bar: Bar | None = None

    def as_pilot(self, epochs: int, head_epochs: int) -> Study:
        """Seed 0 with few epochs, in a folder of its own."""
        return replace(
            self,
            recipe=_with_epochs(self.recipe, epochs),
            heads=_with_epochs(self.heads, head_epochs),
            out=self.out / "pilot",
            seeds=(0,),
        )


def run_claim(study: Study, claim: Claim, pilot: HalfWidths) -> ClaimResult:
    """The claim's result; trains and scores what is missing. Raises what training raises, OptionError."""
    images = len(study.test_set)
    if claim.kind == "regression":
        images = min(images, WATCHED_IMAGES)
    per_seed = [_samples(study, claim, seed, images) for seed in study.seeds]
    return decide(claim, study.data, stacked(per_seed), pilot, _about(study, claim, images))


def _samples(study: Study, claim: Claim, seed: int, images: int) -> Samples:
    weights = image_weights(images, study.resamples)
    if claim.kind == "regression":
        return regression_samples(regression_record(study, seed), weights)
    if claim.kind == "detectors":
        study.say(f"claim {claim.number}, seed {seed}: detectors")
        return arm_samples(
            claim.systems,
            study.recipe,
            (study.train_set, study.test_set),
            study.out / "detectors",
            seed,
            study.weights,
            study.machine,
            weights,
            lambda: _progress(study, "detecting", images),
        )
    table = table_of(study, seed)
    study.say(f"claim {claim.number}, seed {seed}: {study.resamples} resamples of {images} images")
    if claim.name == "correlation":
        return correlations(table, claim.systems, weights)
    with _progress(study, "ranking", len(claim.systems)) as progress:
        return rankings(table, claim.systems, weights, study.out / "samples", progress)


def table_of(study: Study, seed: int) -> RowTable:
    """The seed's table; trains the host, fits the heads and scores the test set where that is not done."""
    checkpoint = _host(study, seed)
    folder = study.out / f"seed{seed}"
    detector, digest = load_host(checkpoint, study.machine.device)
    study.say(f"seed {seed}: fitting the heads on the frozen host")
    heads_recipe = replace(study.heads, resize=study.recipe.resize, augment=study.recipe.augment)
    with _progress(study, "fitting heads", steps_of(study.train_set, heads_recipe)) as progress:
        heads = fit_heads(
            detector,
            digest,
            study.train_set,
            heads_recipe,
            folder / "heads",
            seed,
            device=study.machine.device,
            workers=study.machine.workers,
            step_done=None if progress is None else lambda losses: progress(1),
        )
    path = folder / "table.npz"
    made_from = {
        "host": digest,
        "heads": file_digest(folder / "heads" / "heads.safetensors"),
        "images": [record.path.name for record in study.test_set.records],
    }
    found = load_table(path, made_from)
    if found is not None:
        return found
    study.say(f"seed {seed}: scoring {len(study.test_set)} test images")
    with _progress(study, "scoring", len(study.test_set)) as progress:
        return write_table(
            detector,
            heads,
            study.test_set,
            study.recipe.resize,
            path,
            made_from,
            device=study.machine.device,
            progress=progress,
        )


def regression_record(study: Study, seed: int) -> dict[str, list[Moved]]:
    """Claim 7's record of the seed's host, epoch by epoch."""
    _host(study, seed)
    return load_epochs(study.out / f"seed{seed}" / "regression", study.recipe.optimisation.epochs)


def _host(study: Study, seed: int) -> Path:
    check_host(study.recipe)
    folder = study.out / f"seed{seed}"
    study.say(f"seed {seed}: the host, {study.recipe.optimisation.epochs} epochs")
    watch = RegressionWatch(study.test_set, study.recipe.resize, folder / "regression")
    return train_host(
        study.recipe, study.train_set, folder / "host", seed, study.weights, study.machine, watch
    )


def _about(study: Study, claim: Claim, images: int) -> dict[str, Any]:
    return {
        "images": {"training": len(study.train_set), "test": images},
        "seeds": list(study.seeds),
        "resamples": study.resamples,
        "detector": {"model": study.recipe.model, "backbone": study.recipe.backbone},
        "epochs": study.recipe.optimisation.epochs,
        "head_epochs": study.heads.optimisation.epochs if claim.kind == "table" else None,
        "weights": "none" if study.weights == "none" else "imagenet",
        "device": study.machine.device,
        "hardware": hardware(study.machine.device),
        "commit": commit(),
        "versions": {name: version(name) for name in ("torch", "numpy")},
        "threads": torch.get_num_threads(),
    }


def _with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    fewer = min(epochs, recipe.optimisation.epochs)
    return replace(recipe, optimisation=replace(recipe.optimisation, epochs=fewer))


@contextmanager
def _progress(study: Study, title: str, total: int) -> Iterator[Progress | None]:
    shown: AbstractContextManager[Progress | None] = (
        nullcontext() if study.bar is None or study.machine.quiet else study.bar(title, total)
    )
    with shown as progress:
        yield progress
