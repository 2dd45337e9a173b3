"""`hindsight reproduce`: run a published table, and show ours beside the paper's figures."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from training.published.results import Line
    from training.published.rows import Table

_INTERRUPTED = 130
_SMALL = "small"


def reproduce(
    table: Annotated[
        str | None, typer.Argument(help="dir:table3, drcnn:table9, ...; --list shows them.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="COCO's folder (annotations/, train2017/, val2017/) or Pascal VOC's.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for runs and results; the same one goes on where it was.")
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help='Only these: numbers, ranges or labels, as in "1,3-4".')
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the tables, or one table's rows.")] = False,
    weights: Annotated[
        str, typer.Option(help='Backbone weights: a .safetensors file, "imagenet" (fetched) or "none".')
    ] = "imagenet",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the paper's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Instead of the paper's.")] = None,
    lr: Annotated[float | None, typer.Option(help="Instead of the paper's; nothing rescales it.")] = None,
    amp: Annotated[str | None, typer.Option(help="Mixed precision: off, bf16 or fp16 (CUDA).")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Train and measure on the first so many images.")
    ] = None,
    overrides: Annotated[
        str | None,
        typer.Option(help=f'A .toml recipe fragment laid over every row, or "{_SMALL}", one for a CPU.'),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of weights, sampling and augmentation.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all unless given.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads that prepare images.")] = 2,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between states to go on from.")] = 200,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without bad entries of the data.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train and measure the rows of a published table; ours beside the paper's figures.

    Stopped, by Ctrl-C or by a power cut? The same command goes on: finished rows are not run again.
    """
    from hindsight.commands.console import fail
    from hindsight.datasets.problems import DatasetError
    from hindsight.errors import HindsightError, OptionError
    from model.checkpoint import CheckpointError
    from training.published.plan import Changes
    from training.published.run import Machine

    optimisation = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "amp": amp}
    try:
        if show:
            _list(table)
            return
        if table is None or data is None or out is None:
            raise OptionError("reproduce needs TABLE, --data and --out; reproduce --list shows the tables")
        changes = Changes(
            _overrides(overrides), {k: v for k, v in optimisation.items() if v is not None}, weights, seed
        )
        machine = Machine(device, workers, save_every, quiet, lambda line: typer.echo(line, err=True), _bar)
        _reproduce(table, rows, data, out, limit, skip_bad, threads, changes, machine)
    except DatasetError as error:
        fail(error.report())
    except (HindsightError, CheckpointError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _reproduce(
    name: str,
    wanted: str | None,
    folder: Path,
    out: Path,
    limit: int | None,
    skip_bad: bool,
    threads: int | None,
    changes: Any,
    machine: Any,
) -> None:
    from training.host_memory import keep_freed_pages
    from training.published.data import open_data
    from training.published.plan import plan
    from training.published.recipes import NotInThisBuild
    from training.published.results import grid
    from training.published.rows import load_table
    from training.published.run import reproduce as run_table
    from training.train_command import check_device

    table = load_table(name)
    chosen = table.choose(wanted)
    check_device(machine.device, changes.optimisation.get("amp", "off"))
    data = open_data(folder, limit, skip_bad)
    machine.say(
        f"data: {len(data.training)} images of {data.names[0]} to train on, "
        f"{len(data.test)} of {data.names[1]} to measure on"
    )
    trainings, left_out = plan(chosen, changes, data)
    for row in chosen:
        if row.number in left_out:
            machine.say(f"left out: {row}: {left_out[row.number]}")
    if left_out and (wanted is not None or not trainings):
        first = next(row for row in chosen if row.number in left_out)
        raise NotInThisBuild(f"{first} can't be run: {left_out[first.number]}")
    keep_freed_pages()
    _use_threads(threads)
    lines = run_table(table, chosen, trainings, left_out, changes, data, out, machine)
    _show(table, lines, out, grid(table, lines))


def _show(table: Table, lines: list[Line], out: Path, shown: Any) -> None:
    from hindsight.commands.console import output

    console = output()
    console.print(shown)
    for line in lines:
        if line.row.note:
            console.print(f"row {line.row.number}: {line.row.note}", markup=False)
    if table.incomplete:
        console.print(f"incomplete: {table.incomplete}", markup=False)
    console.print(f"wrote {out / table.slug}.json and .md", markup=False)


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def _bar(total: int) -> Any:
    from training.evaluate_command import evaluation_progress

    return evaluation_progress(total)


def _overrides(name_or_path: str | None) -> Mapping[str, Any]:
    """The values of a TOML file, or of the fragment that ships. Raises RecipeError."""
    from training.published.rows import FOLDER
    from training.recipe import RecipeError

    if name_or_path is None:
        return {}
    path = FOLDER / f"{_SMALL}.toml" if name_or_path == _SMALL else Path(name_or_path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"no overrides {name_or_path!r}: expected a .toml file or {_SMALL!r}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}") from error


def _list(name: str | None) -> None:
    from rich.table import Table as Grid

    from hindsight.commands.console import output
    from training.published.recipes import missing
    from training.published.rows import known_tables, load_table

    console = output()
    for table in map(load_table, known_tables() if name is None else (name,)):
        shown = Grid(title=f"{table.id}: {table.title}", title_justify="left", caption_justify="left")
        main = "AP" if "AP" in table.metrics else table.metrics[-1]
        for column in ("row", "label", "detector", "schedule", main):
            shown.add_column(column)
        shown.add_column("can be run here")
        for row in table.rows:
            figure = row.expected[main]
            lack = missing(row)
            detector = f"{row.model or '-'} {row.backbone}"
            shown.add_row(
                str(row.number),
                row.label,
                detector,
                row.schedule or "-",
                "-" if figure is None else f"{figure:g}",
                "yes" if lack is None else f"no: {lack}",
            )
        if table.incomplete:
            shown.caption = f"incomplete: {table.incomplete}"
        console.print(shown)
