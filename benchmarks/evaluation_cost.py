"""What `hindsight evaluate` takes beyond running the detector: how far its time exceeds that of inference.

    python benchmarks/evaluation_cost.py CHECKPOINT --data DATA --split test --images 500 --threads 2

Inference is reading and preparing every image, the forward pass and one ranking; evaluation is all that
`hindsight evaluate` reports, diagrams and files included. The images are taken in groups, each group by both
in turn, so that whatever else the machine does falls on both: read the ratio. Metrics over all images and the
report come once, at the end, and are counted whole. Writes benchmarks/results/evaluation-cost.json.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer

from hindsight.artifact import ResizeRule
from model.checkpoint import load_checkpoint
from model.detector import TwoStageDetector
from training.data import Dataset, open_dataset
from training.evaluation import evaluate_checkpoint, predict_checkpoint, write_report
from training.machine import origin

RESULT = Path(__file__).resolve().parent / "results" / "evaluation-cost.json"


def in_turn(
    detector: TwoStageDetector, groups: list[Dataset], rule: ResizeRule, batch: int
) -> dict[str, list[float]]:
    """Seconds a group, of inference and of evaluation without its report; the first group warms both up."""
    seconds: dict[str, list[float]] = {"inference": [], "evaluation": []}
    for part in [groups[0], *groups]:
        start = time.perf_counter()
        predict_checkpoint(detector, part, rule, batch)
        middle = time.perf_counter()
        evaluate_checkpoint(detector, part, rule, batch_size=batch)
        seconds["inference"].append(middle - start)
        seconds["evaluation"].append(time.perf_counter() - middle)
    return {name: values[1:] for name, values in seconds.items()}


def report_seconds(detector: TwoStageDetector, part: Dataset, rule: ResizeRule) -> float:
    """Of metrics.json and the diagrams: they take the rows of all images, and nearly the same for few."""
    evaluation = evaluate_checkpoint(detector, part, rule)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_report(Path(folder), evaluation, {"model": "benchmark"})
        return time.perf_counter() - start


def main(
    checkpoint: Annotated[Path, typer.Argument(help="A trained detector (.safetensors).")],
    data: Annotated[Path, typer.Option(help="A Pascal VOC folder or a COCO .json file.")],
    split: Annotated[str | None, typer.Option(help="VOC list.")] = None,
    images: Annotated[int, typer.Option(help="How many of the set's.")] = 500,
    groups: Annotated[int, typer.Option(help="Groups that they are taken in.")] = 5,
    batch: Annotated[int, typer.Option(help="Images per batch.")] = 4,
    threads: Annotated[int, typer.Option(help="Of the model.")] = 2,
    note: Annotated[str, typer.Option(help="What else the machine did, for the result file.")] = "",
) -> None:
    """Measure, print and write."""
    torch.set_num_threads(threads)
    detector, extra = load_checkpoint(checkpoint)
    rule = ResizeRule(**extra["resize"])
    dataset = open_dataset(data, split=split, class_names=extra["class_names"], skip_bad=True)
    records = dataset.records[:images]
    parts = [Dataset(records[start::groups], dataset.class_names) for start in range(groups)]
    seconds = in_turn(detector, parts, rule, batch)
    reporting = report_seconds(detector, parts[0], rule)
    whole = {name: sum(values) for name, values in seconds.items()}
    result = {
        "images": len(records),
        "seconds": whole | {"report": reporting},
        "evaluation_over_inference": (whole["evaluation"] + reporting) / whole["inference"],
        "of_groups": [a / b for a, b in zip(seconds["evaluation"], seconds["inference"], strict=True)],
        "median_of_groups": statistics.median(
            a / b for a, b in zip(seconds["evaluation"], seconds["inference"], strict=True)
        ),
        "data": data.resolve().name,
        "batch": batch,
        "threads": threads,
        "note": note,
        "load_average": os.getloadavg()[0],
        **origin("cpu", "torch"),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    typer.echo(json.dumps(result, indent=2))


if __name__ == "__main__":
    typer.run(main)
