"""`hindsight train`: a data set and a recipe in, checkpoints out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from model.detector import TwoStageDetector
    from training.data.dataset import Dataset
    from training.frozen_host import FrozenHost
    from training.recipe import Recipe

_INTERRUPTED = 130


def train(
    data: Annotated[
        Path, typer.Option(help="Training data: a Pascal VOC or YOLO folder, or a COCO .json file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, logs and what --resume needs.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            help="A recipe's name, or a .toml file. (default: hindsight-r50; frozen-host with --freeze-host)"
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder, if not at its usual place.")] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a VOC or YOLO folder; train unless given. Not for COCO.")
    ] = None,
    semantic: Annotated[
        Path | None, typer.Option(help="Folder of semantic maps, STEM.png for each image (htc).")
    ] = None,
    val_data: Annotated[
        Path | None, typer.Option(help="Validation data; the same folder unless given.")
    ] = None,
    val_images: Annotated[Path | None, typer.Option(help="Image folder of the validation data.")] = None,
    val_split: Annotated[str | None, typer.Option(help="Split to validate on; val unless given.")] = None,
    val_share: Annotated[
        float | None,
        typer.Option(help="Validate on this share of the training images, chosen by name and held out."),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            help='Backbone weights: a .safetensors file, "imagenet" (fetched) or "none". '
            "No use with --freeze-host."
        ),
    ] = "imagenet",
    freeze_host: Annotated[
        bool,
        typer.Option("--freeze-host", help="Train only the localization head, on the detector of --init."),
    ] = False,
    init: Annotated[
        Path | None, typer.Option(help="Checkpoint of the detector that --freeze-host builds on.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, instead of the recipe's.")] = None,
    amp: Annotated[str | None, typer.Option(help="Mixed precision: off, bf16 or fp16 (CUDA).")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, sampling and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all unless given.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads that prepare images.")] = 2,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between states to resume from.")] = 200,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run left off.")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without bad entries of the data.")
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="The same losses from every run of the same seed; may be slower."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bar.")] = False,
) -> None:
    """Train a detector on a COCO, Pascal VOC or YOLO data set."""
    from hindsight.commands.console import fail
    from hindsight.datasets.problems import DatasetError
    from hindsight.errors import HindsightError
    from model.checkpoint import CheckpointError
    from training.train_sets import open_sets

    changes = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "amp": amp}
    try:
        host = _host(freeze_host, init)
        named = recipe or ("frozen-host" if freeze_host else "hindsight-r50")
        chosen = _recipe(named, {k: v for k, v in changes.items() if v is not None})
        extras = _extras(chosen, semantic)
        if host is not None:
            chosen, extras = host.applied(chosen), {"class_names": host.class_names}
        _train(
            recipe=chosen,
            sets=open_sets(
                data, images, split, val_data, val_images, val_split, skip_bad, val_share=val_share, **extras
            ),
            threads=threads,
            deterministic=deterministic,
            options={
                "host": host,
                "folder": out,
                "weights": weights,
                "seed": seed,
                "device": device,
                "workers": workers,
                "save_every": save_every,
                "resume": resume,
                "quiet": quiet,
            },
        )
    except DatasetError as error:
        fail(error.report())
    except (HindsightError, CheckpointError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        typer.echo(f"stopped; go on with: --resume --out {out}", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _recipe(name: str, changes: Mapping[str, Any]) -> Recipe:
    from training.recipe import RecipeError, load_recipe

    recipe = load_recipe(name)
    try:
        return replace(recipe, optimisation=replace(recipe.optimisation, **changes))
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _host(freeze_host: bool, init: Path | None) -> FrozenHost | None:
    from hindsight.errors import OptionError
    from training.frozen_host import open_host

    if not freeze_host and init is None:
        return None
    if init is None or not freeze_host:
        raise OptionError("--freeze-host and --init go together: --freeze-host --init CHECKPOINT")
    host = open_host(init)
    head = "goes on with its" if host.has_localization else "adds a"
    typer.echo(f"frozen host: {init}; training {head} localization head, nothing else", err=True)
    return host


def _extras(recipe: Recipe, semantic: Path | None) -> dict[str, Any]:
    """What the recipe's detector learns besides boxes, and so what is read of the training data."""
    from hindsight.errors import OptionError

    config = recipe.detector_config(1)
    learns_map = config.semantic is not None and config.semantic.loss_weight > 0
    if learns_map and semantic is None:
        raise OptionError(
            f"{recipe.model} learns from semantic maps: name their folder with --semantic, or set "
            "semantic.loss_weight = 0 in the recipe's [detector]"
        )
    if not learns_map and semantic is not None:
        raise OptionError(f"--semantic makes no sense for {recipe.model}, which learns from no map")
    return {"masks": config.mask is not None, "semantic": semantic}


def _train(
    recipe: Recipe,
    sets: tuple[Dataset, Dataset | None],
    threads: int | None,
    deterministic: bool,
    options: Mapping[str, Any],
) -> None:
    import torch

    from hindsight.errors import OptionError
    from training.host_memory import keep_freed_pages
    from training.loop import BEST, LAST, STATE, Run
    from training.loop import train as run_training
    from training.team import joined
    from training.train_sets import say

    keep_freed_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    if deterministic:
        # cuBLAS reads this when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    check_device(options["device"], recipe.optimisation.amp)
    folder: Path = options["folder"]
    if not options["resume"] and (folder / STATE).exists():
        raise OptionError(
            f"{folder} holds a run already: --resume goes on with it, another --out starts anew"
        )
    with joined(options["device"]) as (team, own_device):
        settings = {**options, "device": own_device, "team": team}
        progress = run_training(Run(recipe, sets[0], validate=_validator(sets[1], recipe), **settings))
    kept = folder / (BEST if progress.best_epoch >= 0 else LAST)
    best = f" (best validation AP {progress.best_ap:.3f}, epoch {progress.best_epoch + 1})" if sets[1] else ""
    say(f"done: {kept}{best}")


def check_device(name: str, amp: str) -> None:
    """Raises OptionError if nothing can be trained there with that precision."""
    import torch

    from hindsight.errors import OptionError

    device = torch.device(name) if _is_device(name) else None
    if device is None or (device.type == "cuda" and not torch.cuda.is_available()):
        raise OptionError(f"device {name!r} can't be used here: expected cpu, or a CUDA device that exists")
    if amp == "fp16" and device.type != "cuda":
        raise OptionError("fp16 training needs CUDA: use --amp bf16 or off")


def _is_device(name: str) -> bool:
    import torch

    try:
        torch.device(name)
    except RuntimeError:
        return False
    return True


def _validator(
    validation: Dataset | None, recipe: Recipe
) -> Callable[[TwoStageDetector], Mapping[str, float]] | None:
    if validation is None:
        return None
    from training.evaluation import validate

    def figures(detector: TwoStageDetector) -> Mapping[str, float]:
        return validate(detector, validation, recipe.resize, recipe.optimisation.batch_size).figures()

    return figures
