"""`hindsight audit`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hindsight.artifact import DEFAULT_MODEL, find_artifact
from hindsight.audit.classes import parse_mapping
from hindsight.audit.dataset import set_name
from hindsight.audit.run import Asked, Done, run_audit
from hindsight.audit.summary import MISSING, ClassSummary
from hindsight.audit.views import VIEWS
from hindsight.commands.console import BAD_INPUT, complain, output, progress_console
from hindsight.errors import OptionError
from hindsight.jobs.cores import usable_cores

__all__ = ["audit", "summary_table"]

_INTERRUPTED = 130
_MOST_WORKERS = 8
_MOST_COMPLAINTS = 20
_ANY_WIDTH = 10_000  # columns: what a table would take if it could
_VIEWS_HELP = "Looks at each image: 1 as it is, 2 also mirrored, 4 also upside down; the mean counts."
_COLUMNS = ("loose", "cut", "shifted", "wrong class", "no object", "duplicate")


def audit(
    dataset: Annotated[
        Path, typer.Argument(help="A Pascal VOC or YOLO folder, a YOLO data.yaml, or a COCO .json file.")
    ],
    model: Annotated[str, typer.Option(help="Name or folder of the model.")] = DEFAULT_MODEL,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the report. (default: audit-NAME, of the data set)")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Of a VOC or YOLO folder; the whole of it unless given.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Image folder, if not at its usual place.")] = None,
    class_map: Annotated[
        list[str] | None,
        typer.Option("--map", help='A class by another name: "NAME IN THE DATA=NAME IN THE MODEL".'),
    ] = None,
    skip_class: Annotated[
        list[str] | None, typer.Option(help="A class of the data that is not to be judged.")
    ] = None,
    worst: Annotated[
        int, typer.Option(min=1, help="How many boxes the report lists, and how many missing ones.")
    ] = 1000,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=256, help=f"Images at a time. (default: the cores, at most {_MOST_WORKERS})"),
    ] = None,
    views: Annotated[
        int,
        typer.Option(min=1, max=len(VIEWS), help=_VIEWS_HELP),
    ] = len(VIEWS),
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget what an earlier run in --out has found.")
    ] = False,
) -> None:
    """Find the wrong labels of a data set: the model's second opinion on every annotated box.

    Writes report.html (the worst boxes first) and audit.json (COCO, a verdict on each annotation). Stopped,
    it goes on where it was. A bad image is reported, the others are judged, and the exit status is 2.
    """
    asked = Asked(
        dataset,
        out or Path(f"audit-{set_name(dataset)}"),
        images,
        split,
        parse_mapping(class_map or ()),
        tuple(skip_class or ()),
        worst,
        workers or min(_MOST_WORKERS, usable_cores()),
        views,
        restart,
    )
    if asked.out.exists() and not asked.out.is_dir():
        raise OptionError(f"--out {asked.out} must be a folder")
    try:
        with _Bar() as bar:
            done = run_audit(asked, find_artifact(model), bar)
    except KeyboardInterrupt:
        complain("stopped; the same command goes on where it was")
        raise typer.Exit(_INTERRUPTED) from None
    _show(done)
    if done.bad_images:
        raise typer.Exit(BAD_INPUT)


class _Bar:
    """Tells a person how far it is: lines on stderr, and a bar where that is a terminal."""

    def __init__(self) -> None:
        self._console = progress_console()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def say(self, message: str) -> None:
        self._stop()
        complain(message)

    def stage(self, title: str, done: int, total: int) -> None:
        self._stop()
        if not self._console.is_terminal:
            return
        columns = (
            TextColumn("{task.description}"),
            *Progress.get_default_columns()[1:2],
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(
            *columns, console=self._console, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        self._progress.start()
        self._task = self._progress.add_task(title, total=total, completed=done)

    def advance(self) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task)

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _show(done: Done) -> None:
    for problem in done.bad_images[:_MOST_COMPLAINTS]:
        complain(str(problem))
    if len(done.bad_images) > _MOST_COMPLAINTS:
        complain(f"... and {len(done.bad_images) - _MOST_COMPLAINTS} more images; audit.json lists them all")
    console = output()
    console.print(summary_table(_title(done), done.summaries, console))
    if done.dataset.bad_entries:
        first = done.dataset.bad_entries[0]
        console.print(
            f"{len(done.dataset.bad_entries)} bad entries could not be read, the first: {first}", markup=False
        )
    console.print(f"report: {done.report}", markup=False, soft_wrap=True)
    console.print(f"COCO JSON: {done.json}", markup=False, soft_wrap=True)


def _title(done: Done) -> str:
    annotations = sum(summary.annotations for summary in done.summaries)
    suspicious = sum(summary.suspicious for summary in done.summaries)
    images = len(done.dataset.images)
    return f"{done.dataset.name}: {images} images, {annotations} annotations, {suspicious} suspicious"


def summary_table(title: str, summaries: Sequence[ClassSummary], console: Console) -> Table:
    """Counts by class, of the verdicts that occur. Without lines between where `console` is too narrow."""
    # Verdicts that were not given would take the room of what a terminal is to show.
    verdicts = [name for name in (*_COLUMNS, MISSING) if any(each.verdicts[name] for each in summaries)]
    table = Table(title=Text(title), title_justify="left")
    table.add_column("class", overflow="fold")
    for name in ("boxes", "median IoU", "suspicious", *verdicts):
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True)
    for summary in summaries:
        median = "-" if summary.median_iou is None else f"{summary.median_iou:.2f}"
        counts = (str(summary.verdicts[verdict]) for verdict in verdicts)
        table.add_row(Text(summary.name), str(summary.annotations), median, str(summary.suspicious), *counts)
    if console.measure(table, options=console.options.update(width=_ANY_WIDTH)).maximum > console.width:
        table.box, table.show_edge, table.padding = box.SIMPLE_HEAD, False, 0
    return table
