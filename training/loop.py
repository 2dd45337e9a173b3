"""The training loop, readable top to bottom."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hindsight.errors import HindsightError
from model.checkpoint import save_checkpoint
from model.detector import TwoStageDetector
from training.data import Batch, Dataset, LoaderState, TrainLoader
from training.frozen_host import FrozenHost, detector_on
from training.journal import Journal
from training.optimisers import build_optimiser, set_rate
from training.precision import autocast, loss_scaler
from training.pretrained import load_pretrained
from training.recipe import Recipe
from training.schedule import learning_rate
from training.state import MovingAverage, Progress, load_state, save_state
from training.team import Team, without_sync

STATE, LAST, BEST = "state.safetensors", "last.safetensors", "best.safetensors"


class TrainingStopped(HindsightError):
    """Training can't go on; the message names the loss and the batch."""


@dataclass(frozen=True)
class Run:
    """One training run: what, on what, where. `validate` gives figures of a model: "AP" picks the best."""

    recipe: Recipe
    train_set: Dataset
    folder: Path
    validate: Callable[[TwoStageDetector], Mapping[str, float]] | None = None
    weights: str = "none"  # of the backbone: a file, "imagenet" or "none"
    seed: int = 0
    device: str = "cpu"
    workers: int = 2
    save_every: int = 200  # steps between two states that --resume can start from; every epoch's end besides
    resume: bool = False
    quiet: bool = False
    team: Team = field(default_factory=Team)  # batch_size is that of all its processes together
    host: FrozenHost | None = None  # train a localization head on this checkpoint, and nothing else
    # called after every epoch with the detector, in evaluation mode, and the number of epochs trained
    watch: Callable[[TwoStageDetector, int], None] | None = None


def train(run: Run) -> Progress:
    """Train to the end of the recipe; returns where it stands. Raises TrainingStopped, CheckpointError."""
    torch.manual_seed(run.seed)
    random.seed(run.seed)
    np.random.seed(run.seed)
    recipe = run.recipe.optimisation
    team = run.team
    team.check(min(recipe.batch_size, len(run.train_set)), recipe.accumulate)
    detector = _build(run)
    detector = detector.to(run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = build_optimiser(detector, recipe)
    average = MovingAverage(detector, recipe.ema_decay) if recipe.ema_decay else None
    loader = TrainLoader(
        run.train_set,
        recipe.batch_size,
        run.recipe.resize,
        run.recipe.augment,
        run.seed,
        run.workers,
        run.recipe.repeat_threshold,
        (team.rank, team.size),
    )
    fingerprint = _fingerprint(run)
    progress = Progress()
    if run.resume:
        progress = load_state(run.folder / STATE, detector, optimiser, average, fingerprint)
    compute = team.losses_of(detector)
    team.seed(run.seed, progress.step)
    scaler = loss_scaler(recipe.amp, run.device)
    with _journal(run, recipe.epochs * len(loader), progress.step) as journal:
        while progress.epoch < recipe.epochs:
            detector.train()
            start = progress.step_in_epoch
            for offset, batch in enumerate(loader.epoch(progress.epoch, start), start=start):
                rate = learning_rate(recipe, progress.step, len(loader))
                losses = _step(compute, optimiser, scaler, batch, rate, run, progress)
                if average is not None:
                    average.update(detector, progress.step)
                if journal is not None:
                    journal.step(progress.step, progress.epoch, rate, losses)
                following = loader.after(LoaderState(progress.epoch, offset))
                progress = replace(progress, step=progress.step + 1, step_in_epoch=following.step)
                if progress.step % run.save_every == 0 and following.step and team.leads:
                    save_state(run.folder / STATE, detector, optimiser, average, progress, fingerprint)
            progress = _end_of_epoch(detector, average, run, journal, progress)
            if team.leads:
                save_state(run.folder / STATE, detector, optimiser, average, progress, fingerprint)
            team.wait()
    return progress


def _journal(run: Run, total_steps: int, first_step: int) -> AbstractContextManager[Journal | None]:
    """Only one process of a team keeps the journal."""
    if not run.team.leads:
        return nullcontext()
    run.folder.mkdir(parents=True, exist_ok=True)
    return Journal(run.folder, total_steps, first_step, quiet=run.quiet)


def _build(run: Run) -> TwoStageDetector:
    if run.host is not None:
        return detector_on(run.host, run.recipe)
    detector = TwoStageDetector(run.recipe.detector_config(len(run.train_set.class_names)))
    if not run.resume:
        load_pretrained(detector, run.weights)
    return detector


def _step(
    compute: nn.Module,
    optimiser: Optimizer,
    scaler: torch.amp.GradScaler,
    batch: Batch,
    rate: float,
    run: Run,
    progress: Progress,
) -> dict[str, float]:
    recipe = run.recipe.optimisation
    set_rate(optimiser, rate)
    optimiser.zero_grad(set_to_none=True)
    shown: dict[str, float] = {}
    parts = batch.split(recipe.accumulate)
    for part in parts:
        share = len(part) / len(batch)
        targets = [t.to(run.device) for t in part.targets]
        with without_sync(compute, skip=part is not parts[-1]):
            with autocast(recipe.amp, run.device):
                losses = compute(part.images.to(run.device), part.image_sizes.to(run.device), targets)
            own = run.team.mean({name: float(value.detach()) for name, value in losses.items()})
            _refuse_nan(own, part, progress)
            shown = {name: shown.get(name, 0.0) + share * value for name, value in own.items()}
            total: Tensor = torch.stack(list(losses.values())).sum() * share
            scaler.scale(total).backward()
    scaler.unscale_(optimiser)
    norm = nn.utils.clip_grad_norm_(compute.parameters(), recipe.clip_norm)
    if recipe.amp != "fp16" and not bool(torch.isfinite(norm)):
        # half precision overflows now and then: its scaler skips the step and lowers the scale
        raise TrainingStopped(
            f"the gradient is not finite at step {progress.step}, images {_ids(batch)}; lower lr or clip_norm"
        )
    scaler.step(optimiser)
    scaler.update()
    return shown


def _refuse_nan(losses: Mapping[str, float], batch: Batch, progress: Progress) -> None:
    for name, value in losses.items():
        if not np.isfinite(value):
            raise TrainingStopped(
                f"loss {name!r} became {value} at step {progress.step} (epoch {progress.epoch + 1}), batch "
                f"of images {_ids(batch)}; check their boxes, or lower lr, then --resume"
            )


def _ids(batch: Batch) -> str:
    return ", ".join(str(i) for i in batch.image_ids)


def _end_of_epoch(
    detector: TwoStageDetector,
    average: MovingAverage | None,
    run: Run,
    journal: Journal | None,
    progress: Progress,
) -> Progress:
    """Save, validate (the moving average where there is one), keep the best; progress at the next epoch."""
    epoch = progress.epoch
    if journal is None:
        return replace(progress, epoch=epoch + 1, step_in_epoch=0)
    weights = average.weights if average is not None else detector.state_dict()
    extra = {
        "class_names": list(run.train_set.class_names),
        "resize": asdict(run.recipe.resize),
        "recipe": {"model": run.recipe.model, "backbone": run.recipe.backbone},
        "epoch": epoch + 1,
        "seed": run.seed,
    }
    if run.host is not None:
        extra |= run.host.about()
    if run.watch is not None:
        with _training_paused(detector), torch.no_grad():
            run.watch(detector, epoch + 1)
    progress = replace(progress, epoch=epoch + 1, step_in_epoch=0)
    last = epoch + 1 == run.recipe.optimisation.epochs
    if run.validate is not None and ((epoch + 1) % run.recipe.validate_every == 0 or last):
        figures = _validate(detector, weights, run)
        journal.validation(progress.step - 1, epoch, figures)
        extra["validation"] = dict(figures)
        ap = figures.get("AP", 0.0)  # undefined where the validation set holds no object
        if ap > progress.best_ap:
            progress = replace(progress, best_ap=ap, best_epoch=epoch)
            save_checkpoint(run.folder / BEST, detector, extra, weights)
    save_checkpoint(run.folder / LAST, detector, extra, weights)
    return progress


def _validate(detector: TwoStageDetector, weights: Mapping[str, Tensor], run: Run) -> Mapping[str, float]:
    assert run.validate is not None
    trained = {k: v.clone() for k, v in detector.state_dict().items()}
    with _training_paused(detector):
        detector.load_state_dict(weights)
        try:
            return run.validate(detector)
        finally:
            detector.load_state_dict(trained)


@contextmanager
def _training_paused(detector: TwoStageDetector) -> Iterator[None]:
    """In evaluation mode. Paused or not, training goes on alike: random numbers drawn here are given back."""
    random_state = torch.get_rng_state()
    detector.eval()
    try:
        yield
    finally:
        detector.train()
        torch.set_rng_state(random_state)


def _fingerprint(run: Run) -> dict[str, object]:
    """What must be the same for a resumed run to be the run that was killed."""
    return {
        "recipe": dataclasses.asdict(run.recipe),
        "classes": list(run.train_set.class_names),
        "images": len(run.train_set),
        "seed": run.seed,
        "host": None if run.host is None else run.host.sha256,
    }
