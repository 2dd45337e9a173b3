"""What a training step costs by precision and memory layout, and whether the data keep up with it.

    python benchmarks/training_speed.py --data DATA --split train --recipe cells --threads 2

Three measurements: the loader alone (images a second, first from files, then from its cache), the step alone
on batches that lie ready, and both together as training runs them, with the share of time that a step waits
for its batch. Steps of all kinds are taken in turn on the same batches, so that whatever else the
machine does falls on all: read the ratios. Writes benchmarks/results/training-speed-RECIPE-DEVICE.json.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from model.detector import TwoStageDetector
from training.data import Batch, Dataset, TrainLoader, open_dataset
from training.host_memory import keep_freed_pages
from training.machine import origin
from training.optimisers import build_optimiser
from training.precision import autocast, loss_scaler
from training.recipe import Recipe, load_recipe

RESULTS = Path(__file__).resolve().parent / "results"
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
WARM_UP = 2  # rounds: kernels are chosen, and memory grows, in the first
Step = Callable[[Batch], None]


def stepper(recipe: Recipe, classes: int, amp: str, layout: str, device: str) -> Step:
    """A step of a fresh detector of its own."""
    torch.manual_seed(0)
    detector = TwoStageDetector(recipe.detector_config(classes))
    detector = detector.to(device, memory_format=LAYOUTS[layout]).train()  # type: ignore[call-overload]
    optimiser = build_optimiser(detector, recipe.optimisation)
    scaler = loss_scaler(amp, device)

    def step(batch: Batch) -> None:
        targets = [target.to(device) for target in batch.targets]
        with autocast(amp, device):
            losses = detector.losses(batch.images.to(device), batch.image_sizes.to(device), targets)
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(torch.stack([value.float() for value in losses.values()]).sum()).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(detector.parameters(), recipe.optimisation.clip_norm)
        scaler.step(optimiser)
        scaler.update()
        if device != "cpu":
            torch.cuda.synchronize()

    return step


def steps_in_turn(steps: dict[str, Step], batches: Sequence[Batch]) -> dict[str, list[float]]:
    """Seconds of every step on every batch, after WARM_UP rounds on the first."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for batch, warm in [*((batches[0], True) for _ in range(WARM_UP)), *((b, False) for b in batches)]:
        for name, step in steps.items():
            start = time.perf_counter()
            step(batch)
            if not warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def compared(seconds: dict[str, list[float]], images: int) -> dict[str, Any]:
    """Per kind: seconds an image, and the median ratio to the first kind on the same batch."""
    first = next(iter(seconds.values()))
    return {
        name: {
            "seconds_per_image": statistics.median(values) / images,
            "ratio": statistics.median(a / b for a, b in zip(values, first, strict=True)),
        }
        for name, values in seconds.items()
    }


def loader_alone(loader: TrainLoader, count: int) -> dict[str, float]:
    """Images a second over the first `count` batches of an epoch: from files, then from the cache."""
    rates = {}
    for source in ("files", "cache"):
        start, images = time.perf_counter(), 0
        for batch in itertools.islice(loader.epoch(0), count):
            images += len(batch)
        rates[source] = images / (time.perf_counter() - start)
    return rates


def together(loader: TrainLoader, step: Step, count: int) -> dict[str, float]:
    """Images a second of training, and the share of its time that it waits for data.

    Epoch 0 again: its images lie in the cache, as they do from the second epoch on of a set that fits there.
    """
    batches = iter(loader.epoch(0))
    waited, images, start = 0.0, 0, time.perf_counter()
    for _ in range(count):
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        step(batch)
        images += len(batch)
    whole = time.perf_counter() - start
    return {"images_per_second": images / whole, "share_waiting": waited / whole}


def main(
    data: Annotated[Path, typer.Option(help="A Pascal VOC folder or a COCO .json file.")],
    split: Annotated[str | None, typer.Option(help="VOC list.")] = None,
    recipe: Annotated[str, typer.Option(help="A recipe's name.")] = "cells",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Of the model, on a CPU.")] = 2,
    workers: Annotated[int, typer.Option(help="Threads that prepare images.")] = 1,
    count: Annotated[int, typer.Option(help="Batches of each measurement.")] = 8,
    note: Annotated[str, typer.Option(help="What else the machine did, for the result file.")] = "",
) -> None:
    """Measure, print and write."""
    keep_freed_pages()
    torch.set_num_threads(threads)
    chosen = load_recipe(recipe)
    dataset = open_dataset(data, split=split, skip_bad=True)
    result = measured(chosen, dataset, device, workers, count) | {
        "recipe": recipe,
        "data": data.resolve().name,
        "split": split,
        "batches": count,
        "threads": threads,
        "workers": workers,
        "note": note,
        "load_average": os.getloadavg()[0],
        **origin(device, "torch"),
    }
    text = json.dumps(result, indent=2) + "\n"
    (RESULTS / f"training-speed-{recipe}-{device.split(':')[0]}.json").write_text(text)
    typer.echo(text)


def measured(recipe: Recipe, dataset: Dataset, device: str, workers: int, count: int) -> dict[str, Any]:
    """All three measurements."""
    loader = TrainLoader(
        dataset, recipe.optimisation.batch_size, recipe.resize, recipe.augment, seed=0, workers=workers
    )
    alone = loader_alone(loader, count)
    batches = list(itertools.islice(loader.epoch(0), count))
    precisions = ["off", "bf16"] if device == "cpu" else ["off", "bf16", "fp16"]
    kinds = [(amp, layout) for layout in LAYOUTS for amp in precisions]
    steps = {
        f"amp {amp}, {layout}": stepper(recipe, len(dataset.class_names), amp, layout, device)
        for amp, layout in kinds
    }
    step = compared(steps_in_turn(steps, batches), loader.batch_size)
    as_trained = f"amp {recipe.optimisation.amp}, channels_last"
    return {
        "loader_images_per_second": alone,
        "step": step,
        "training": {"kind": as_trained} | together(loader, steps[as_trained], count),
    }


if __name__ == "__main__":
    typer.run(main)
