"""`hindsight evaluate`: average precision and localization quality of a checkpoint or an artifact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from training.data.dataset import Dataset
    from training.evaluation.predict import Progress
    from training.evaluation.run import Evaluation

DEFAULT_SPLIT = "test"


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A checkpoint (.safetensors), a model folder, or a model's name.")
    ],
    data: Annotated[Path, typer.Option(help="A Pascal VOC folder or a COCO .json file.")],
    images: Annotated[Path | None, typer.Option(help="Image folder, if not at its usual place.")] = None,
    split: Annotated[
        str | None,
        typer.Option(help=f"VOC list in ImageSets/Main; {DEFAULT_SPLIT} unless given. Not for COCO."),
    ] = None,
    iou_weight: Annotated[
        float, typer.Option(help="w (0 to 1) of class^(1-w) * IoU^w; 0 and .5 are reported in any case.")
    ] = 0.5,
    out: Annotated[Path | None, typer.Option(help="Folder for metrics.json and the diagrams.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all unless given.")] = None,
    device: Annotated[str, typer.Option(help="For checkpoints: cpu, cuda, cuda:1, ...")] = "cpu",
    all_boxes: Annotated[
        bool, typer.Option("--all-boxes", help="For checkpoints: also AP with the second look at every box.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without bad entries of the data.")
    ] = False,
) -> None:
    """Measure a checkpoint or a model: AP, and how well its scores tell how well its boxes lie."""
    from hindsight.commands.console import BAD_INPUT, fail
    from hindsight.errors import HindsightError
    from model.checkpoint import CheckpointError
    from training.data.problems import DatasetError

    try:
        _evaluate(
            model, data, images, split, iou_weight, out, batch_size, threads, device, all_boxes, skip_bad
        )
    except DatasetError as error:
        typer.echo(f"hindsight: {error.report()}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except (HindsightError, CheckpointError) as error:
        fail(str(error))


def _evaluate(
    model: str,
    data: Path,
    images: Path | None,
    split: str | None,
    iou_weight: float,
    out: Path | None,
    batch_size: int,
    threads: int | None,
    device: str,
    all_boxes: bool,
    skip_bad: bool,
) -> None:
    from hindsight.commands.console import output
    from hindsight.errors import OptionError
    from training.evaluation.report import write_report
    from training.evaluation.tables import tables

    if not 0 <= iou_weight <= 1:  # false for NaN too
        raise OptionError(f"--iou-weight must be a number in 0..1, got {iou_weight}")
    if split is None and data.is_dir():
        split = DEFAULT_SPLIT
    opened = {"images": images, "split": split, "skip_bad": skip_bad}
    if model.endswith(".safetensors"):
        name, dataset, evaluation = _checkpoint(
            Path(model), data, opened, iou_weight, batch_size, threads, device, all_boxes
        )
    else:
        name, dataset, evaluation = _artifact(model, data, opened, iou_weight, batch_size, threads)
    console = output()
    for table in tables(evaluation):
        console.print(table)
    if dataset.problems:
        console.print(
            f"left out as bad: {len(dataset.problems)}; the first: {dataset.problems[0]}", markup=False
        )
    if out is not None:
        about = {
            "model": name,
            "data": {"name": data.resolve().name, "split": split, "left_out": len(dataset.problems)},
        }
        for file in write_report(out, evaluation, about):
            console.print(f"wrote {file}", markup=False)


def _checkpoint(
    path: Path,
    data: Path,
    opened: dict[str, Any],
    iou_weight: float,
    batch_size: int,
    threads: int | None,
    device: str,
    all_boxes: bool,
) -> tuple[str, Dataset, Evaluation]:
    import torch

    from hindsight.errors import OptionError
    from model.checkpoint import load_checkpoint
    from training.data.dataset import open_dataset
    from training.evaluation.run import checkpoint_passes, evaluate_checkpoint
    from training.trained_for import classes_and_resize

    if threads is not None:
        torch.set_num_threads(threads)
    detector, extra = load_checkpoint(path)
    class_names, rule = classes_and_resize(path, extra)
    dataset = open_dataset(data, class_names=class_names, **opened)
    try:
        detector = detector.to(device)
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    total = len(dataset) * checkpoint_passes(detector, all_boxes)
    with evaluation_progress(total) as progress:
        evaluation = evaluate_checkpoint(
            detector,
            dataset,
            rule,
            iou_weight=iou_weight,
            batch_size=batch_size,
            all_boxes=all_boxes,
            progress=progress,
        )
    return path.name, dataset, evaluation


def _artifact(
    name_or_path: str,
    data: Path,
    opened: dict[str, Any],
    iou_weight: float,
    batch_size: int,
    threads: int | None,
) -> tuple[str, Dataset, Evaluation]:
    from hindsight.artifact import find_artifact
    from training.data.dataset import open_dataset
    from training.evaluation.run import artifact_passes, evaluate_artifact

    artifact = find_artifact(name_or_path)
    dataset = open_dataset(data, class_names=artifact.manifest.class_names, **opened)
    with evaluation_progress(len(dataset) * artifact_passes(artifact, iou_weight)) as progress:
        evaluation = evaluate_artifact(
            artifact,
            dataset,
            iou_weight=iou_weight,
            batch_size=batch_size,
            threads=threads,
            progress=progress,
        )
    manifest = artifact.manifest
    return f"{manifest.name} {manifest.version}", dataset, evaluation


@contextmanager
def evaluation_progress(total: int) -> Iterator[Progress]:
    """A bar with the time left, on stderr so that stdout holds the tables alone."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from hindsight.commands.console import progress_console

    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=progress_console(), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda images: bar.advance(task, images)
