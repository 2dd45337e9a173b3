"""`hindsight evaluate`: average precision and localization quality of a checkpoint or an artifact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    data: Annotated[Path, typer.Option(help="A Pascal VOC or YOLO folder, or a COCO .json file.")],
    images: Annotated[Path | None, typer.Option(help="Image folder, if not at its usual place.")] = None,
    split: Annotated[
        str | None,
        typer.Option(help=f"Of a VOC or YOLO folder; {DEFAULT_SPLIT} unless given. Not for COCO."),
    ] = None,
    val_share: Annotated[
        float | None,
        typer.Option(help="Only the images that `hindsight train --val-share` held out."),
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
    boxes_only: Annotated[
        bool, typer.Option("--boxes-only", help="No mask AP: for COCO files without segmentations.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without bad entries of the data.")
    ] = False,
) -> None:
    """Measure a checkpoint or a model: AP, and how well its scores tell how well its boxes lie."""
    from hindsight.commands.console import BAD_INPUT, fail
    from hindsight.datasets.problems import DatasetError
    from hindsight.errors import HindsightError
    from model.checkpoint import CheckpointError

    try:
        _evaluate(
            model,
            data,
            {
                "images": images,
                "split": split,
                "skip_bad": skip_bad,
                "val_share": val_share,
                "boxes_only": boxes_only,
            },
            iou_weight,
            out,
            batch_size,
            threads,
            device,
            all_boxes,
        )
    except DatasetError as error:
        typer.echo(f"hindsight: {error.report()}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except (HindsightError, CheckpointError) as error:
        fail(str(error))


def _evaluate(
    model: str,
    data: Path,
    opened: dict[str, Any],
    iou_weight: float,
    out: Path | None,
    batch_size: int,
    threads: int | None,
    device: str,
    all_boxes: bool,
) -> None:
    from hindsight.commands.console import output
    from hindsight.datasets.source import default_split
    from hindsight.errors import OptionError
    from training.evaluation.report import write_report
    from training.evaluation.tables import tables

    if not 0 <= iou_weight <= 1:  # false for NaN too
        raise OptionError(f"--iou-weight must be a number in 0..1, got {iou_weight}")
    share = opened["val_share"]
    if share is not None and not 0 < share < 1:
        raise OptionError(f"--val-share must lie between 0 and 1, got {share}")
    if opened["split"] is None:
        opened = {**opened, "split": default_split(data, DEFAULT_SPLIT)}
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
            "data": {
                "name": data.resolve().name,
                "split": opened["split"],
                "left_out": len(dataset.problems),
            }
            | ({} if share is None else {"val_share": share}),
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
    from training.evaluation.run import checkpoint_passes, evaluate_checkpoint
    from training.trained_for import classes_and_resize

    if threads is not None:
        torch.set_num_threads(threads)
    detector, extra = load_checkpoint(path)
    class_names, rule = classes_and_resize(path, extra)
    dataset = _open(data, class_names, detector.makes_masks, **opened)
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
    from training.evaluation.run import artifact_passes, evaluate_artifact

    artifact = find_artifact(name_or_path)
    dataset = _open(data, artifact.manifest.class_names, artifact.manifest.has_masks, **opened)
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


def _open(
    data: Path,
    class_names: Sequence[str],
    masks: bool,
    *,
    val_share: float | None = None,
    boxes_only: bool = False,
    **opened: Any,
) -> Dataset:
    """`masks`: whether the model makes some, which are measured where the data have them."""
    from hindsight.datasets.problems import DatasetError
    from hindsight.datasets.source import format_of
    from training.data.dataset import open_dataset
    from training.data.holdout import hold_out

    kind = format_of(data)
    if masks and kind != "coco":
        title = {"voc": "Pascal VOC", "yolo": "YOLO"}[kind]
        typer.echo(f"masks are not measured: of a {title} folder, boxes only", err=True)
    masks = masks and not boxes_only and kind == "coco"
    try:
        dataset = open_dataset(data, class_names=class_names, masks=masks, **opened)
    except DatasetError as error:
        if not masks:
            raise
        hint = "the model makes masks: --boxes-only measures its boxes alone"
        headline = f"{error.report().splitlines()[0]}; {hint}"
        raise DatasetError(f"{error}; {hint}", error.problems, headline) from None
    return dataset if val_share is None else hold_out(dataset, val_share)[1]


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
