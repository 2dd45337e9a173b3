"""What a training step costs with a frozen host, against the full one: time and peak memory per image.

    python benchmarks/freeze_host.py --recipe cells --side 320

Both detectors have the same weights and train on the same batch, step by step in turn, so that whatever else
the machine does falls on both: read the ratio, not the seconds. Writes benchmarks/results/freeze-host.json.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from model.detector import TwoStageDetector
from model.structures import Target
from training.machine import origin
from training.optimisers import build_optimiser
from training.recipe import Optimisation, load_recipe

RESULT = Path(__file__).resolve().parent / "results" / "freeze-host.json"
CLASSES = 3
OBJECTS = 8  # on every image
WARM_UP = 1
Step = Callable[[], None]


def batch_of(count: int, side: int, device: str) -> tuple[Tensor, Tensor, list[Target]]:
    """Square images of noise with boxes of a tenth to a half of their side."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, side, side, 3), generator=generator, dtype=torch.uint8)
    targets = []
    for _ in range(count):
        wh = side * (0.1 + 0.4 * torch.rand(OBJECTS, 2, generator=generator))
        corner = torch.rand(OBJECTS, 2, generator=generator) * (side - wh)
        labels = torch.randint(0, CLASSES, (OBJECTS,), generator=generator)
        targets.append(Target(torch.cat([corner, corner + wh], dim=1), labels, torch.zeros(0, 4)).to(device))
    return images.to(device), torch.tensor([[side, side]] * count, device=device), targets


def stepper(
    detector: TwoStageDetector, recipe: Optimisation, batch: tuple[Tensor, Tensor, list[Target]]
) -> Step:
    """One optimisation step, as the training loop takes it."""
    optimiser = build_optimiser(detector, recipe)

    def step() -> None:
        losses = detector.train().losses(*batch)
        optimiser.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        nn.utils.clip_grad_norm_(detector.parameters(), recipe.clip_norm)
        optimiser.step()
        if batch[0].is_cuda:
            torch.cuda.synchronize()

    return step


def peak_megabytes(step: Step, device: str) -> float:
    """The most memory that two steps take beyond what lies there before them."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # A process of its own: the peak of a process never falls again.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before = resident_kilobytes()
            step()
            step()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            os.write(writing, str(peak / 1024).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return float(pipe.read())


def resident_kilobytes() -> int:
    """Of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def in_turn(steps: dict[str, Step], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, taken alternately."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(WARM_UP + repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[WARM_UP:] for name, values in seconds.items()}


def main(
    recipe: Annotated[str, typer.Option(help="Whose detector: a recipe's name.")] = "hindsight-r50",
    side: Annotated[int, typer.Option(help="Of the square images, in pixels.")] = 800,
    batch: Annotated[int, typer.Option(help="Images per step.")] = 2,
    repeats: Annotated[int, typer.Option(help="Steps of each kind.")] = 5,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    note: Annotated[str, typer.Option(help="What else the machine did, for the result file.")] = "",
) -> None:
    """Measure, print and write."""
    torch.manual_seed(0)
    chosen = load_recipe(recipe)
    full = TwoStageDetector(chosen.detector_config(CLASSES)).to(device)
    frozen = copy.deepcopy(full)
    frozen.freeze_host()
    drawn = batch_of(batch, side, device)
    steps = {
        "full": stepper(full, chosen.optimisation, drawn),
        "frozen_host": stepper(frozen, chosen.optimisation, drawn),
    }
    # memory first: a process in which gradients have been computed must not be forked
    memory = {name: peak_megabytes(step, device) for name, step in steps.items()}
    seconds = in_turn(steps, repeats)
    result = report(seconds, memory, batch) | {
        "detector": {"recipe": recipe, "model": chosen.model, "backbone": chosen.backbone},
        "batch": {"images": batch, "side": side, "objects_per_image": OBJECTS},
        "repeats": repeats,
        "note": note,
        "load_average": os.getloadavg()[0],
        "threads": torch.get_num_threads(),
        **origin(device, "torch"),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    typer.echo(json.dumps(result, indent=2))


def report(seconds: dict[str, list[float]], memory: dict[str, float], batch: int) -> dict[str, Any]:
    """Per image, and frozen over full: the median of the pairs' ratios, for the load changes over time."""
    ratios = [a / b for a, b in zip(seconds["frozen_host"], seconds["full"], strict=True)]
    return {
        "seconds_per_image": {
            name: {"median": statistics.median(values) / batch, "all": [value / batch for value in values]}
            for name, values in seconds.items()
        },
        "peak_megabytes_per_image": {name: value / batch for name, value in memory.items()},
        "frozen_over_full": {
            "seconds": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
            "peak_memory": memory["frozen_host"] / memory["full"],
        },
    }


if __name__ == "__main__":
    typer.run(main)
