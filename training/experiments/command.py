"""The command line: a claim or `pilot` in, verdicts, files and figures out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from training.data import Dataset
    from training.evaluation.predict import Progress
    from training.experiments.claims import Claim
    from training.experiments.results import ClaimResult, HalfWidths
    from training.experiments.study import Study
    from training.recipe import Recipe

PILOT = "pilot"
_PILOT_EPOCHS, _PILOT_HEAD_EPOCHS = 4, 1
_INTERRUPTED = 130
_HELP = "A claim of docs/experiments.md by name or number, or pilot."


def main() -> None:
    """Entry point of python -m training.experiments."""
    app = typer.Typer(add_completion=False)
    app.command()(experiments)
    app(prog_name="python -m training.experiments")


def experiments(
    claim: Annotated[str, typer.Argument(help=_HELP)],
    data: Annotated[Path, typer.Option(help="Training data: a Pascal VOC folder or a COCO .json file.")],
    out: Annotated[Path, typer.Option(help="Folder for what takes long; the same one goes on where it was.")],
    images: Annotated[Path | None, typer.Option(help="Image folder, if not at its usual place.")] = None,
    split: Annotated[str, typer.Option(help="VOC lists to train on, joined by commas.")] = "train",
    test_data: Annotated[
        Path | None, typer.Option(help="Test data; the same VOC folder unless given.")
    ] = None,
    test_split: Annotated[str, typer.Option(help="VOC lists to measure on.")] = "val,test",
    name: Annotated[
        str | None, typer.Option(help="Of the data, for recipes and results; else its folder's.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Folder for results and figures.")] = Path(
        "benchmarks/results/claims"
    ),
    recipe: Annotated[
        Path | None, typer.Option(help="The host's (claims 5, 6: the base) recipe, if not NAME's own.")
    ] = None,
    heads: Annotated[Path | None, typer.Option(help="The heads' recipe.")] = None,
    weights: Annotated[
        str, typer.Option(help='Backbone weights: a .safetensors file, "imagenet" (fetched) or "none".')
    ] = "imagenet",
    seeds: Annotated[str, typer.Option(help="Joined by commas; pilot: always 0.")] = "0,1",
    epochs: Annotated[int | None, typer.Option(min=1, help="Of a host, at most.")] = None,
    head_epochs: Annotated[int | None, typer.Option(min=1, help="Of the heads, at most.")] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 2000,
    claims: Annotated[
        str, typer.Option(help="pilot: which claims; 5 and 6 need a GPU.")
    ] = "correlation,ranking,combination,features",
    no_pilot: Annotated[
        bool, typer.Option("--no-pilot", help="Drop no comparison: none was piloted.")
    ] = False,
    on_cpu: Annotated[
        bool, typer.Option("--on-cpu", help="Run claim 5 or 6 on a CPU, with a small --recipe.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; all unless given.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads that prepare images.")] = 2,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Go on without bad entries of the data.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Check one claim of the papers, or run the pilot that comes first.

    Stopped, by Ctrl-C or by a power cut? The same command goes on: finished parts are not run again.
    """
    from hindsight.commands.console import fail
    from hindsight.datasets.problems import DatasetError
    from hindsight.errors import HindsightError, OptionError
    from model.checkpoint import CheckpointError
    from training.experiments.claims import find_claim
    from training.experiments.inputs import listed, name_of, open_recipes, open_sets, seeds_of

    try:
        chosen = [find_claim(one) for one in listed(claims)] if claim == PILOT else [find_claim(claim)]
        on_gpu = any(one.needs_gpu for one in chosen)
        if on_gpu and not all(one.needs_gpu for one in chosen):
            raise OptionError("claims 5 and 6 take another --recipe: pilot them apart from the others")
        if on_gpu and device == "cpu" and not on_cpu:
            raise OptionError("claims 5 and 6 need a GPU: --device cuda (or --on-cpu with a small --recipe)")
        called = name or name_of(data)
        study = _study(
            called,
            open_sets(data, images, split, test_data, test_split, skip_bad),
            open_recipes(called, recipe, heads, (epochs, head_epochs), on_gpu),
            out=out,
            seeds=seeds_of(seeds),
            resamples=resamples,
            weights=weights,
            machine=(device, workers, quiet),
            threads=threads,
        )
        if claim == PILOT:
            _pilot(study, chosen, results)
        else:
            _claim(study, chosen[0], results, {} if no_pilot else _half_widths(results, called, chosen[0]))
    except DatasetError as error:
        fail(error.report())
    except (HindsightError, CheckpointError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on", err=True)
        raise typer.Exit(_INTERRUPTED) from None


def _claim(study: Study, claim: Claim, results: Path, pilot: HalfWidths) -> None:
    from training.experiments.figures import draw_claim, draw_regression, draw_scatter
    from training.experiments.results import write_result
    from training.experiments.study import regression_record, run_claim, table_of

    result = run_claim(study, claim, pilot)
    files = write_result(results, result)
    base = results / claim.name / study.data
    files.append(base.with_name(f"{study.data}.png"))
    draw_claim(files[-1], result)
    seed = study.seeds[0]
    if claim.name == "correlation":
        files.append(base.with_name(f"{study.data}-scatter.png"))
        draw_scatter(files[-1], table_of(replace(study, say=_silent), seed), f"{study.data}, seed {seed}")
    if claim.kind == "regression":
        files.append(base.with_name(f"{study.data}-distribution.png"))
        records = regression_record(replace(study, say=_silent), seed)
        draw_regression(files[-1], records, f"{study.data}, seed {seed}: how far regression moves the IoU")
    _show(result)
    for file in files:
        typer.echo(f"wrote {file}")


def _pilot(study: Study, claims: list[Claim], results: Path) -> None:
    """Half-widths alone are shown and kept: the pilot's differences are not looked at."""
    from rich.table import Table

    from hindsight.commands.console import output
    from training.experiments.files import read_json, write_json
    from training.experiments.results import half_widths
    from training.experiments.study import run_claim

    pilot = study.as_pilot(_PILOT_EPOCHS, _PILOT_HEAD_EPOCHS)
    path = results / PILOT / f"{study.data}.json"
    kept = read_json(path)["half_widths"] if path.is_file() else {}
    shown = Table(title=f"Pilot on {study.data}: half-widths of the 95 % intervals")
    for title in ("comparison", "metric", "half-width", "the paper's difference", ""):
        shown.add_column(title)
    for claim in claims:
        result = run_claim(pilot, claim, {})
        kept |= half_widths(result)
        for finding in result.findings:
            width, expected = finding.difference.half_width, finding.expected
            dropped = width is not None and expected is not None and expected < width
            cells = ("-" if value is None else f"{value:.4f}" for value in (width, expected))
            shown.add_row(finding.comparison, finding.metric, *cells, "dropped" if dropped else "")
    epochs = {"host": pilot.recipe.optimisation.epochs, "heads": pilot.heads.optimisation.epochs}
    write_json(
        path, {"data": study.data, "resamples": study.resamples, "epochs": epochs, "half_widths": kept}
    )
    output().print(shown)
    typer.echo(f"wrote {path}")


def _half_widths(results: Path, name: str, claim: Claim) -> HalfWidths:
    from hindsight.errors import OptionError
    from training.experiments.files import read_json

    if claim.kind == "regression":
        return {}  # the paper prints no number that could be too small
    path = results / PILOT / f"{name}.json"
    widths: HalfWidths = read_json(path)["half_widths"] if path.is_file() else {}
    missing = [comparison.id for comparison in claim.comparisons if comparison.id not in widths]
    if missing:
        raise OptionError(
            f"no half-widths of {', '.join(missing)} in {path}: run pilot --claims {claim.name} with the "
            "same options first, or --no-pilot"
        )
    return widths


def _study(
    name: str,
    sets: tuple[Dataset, Dataset],
    recipes: tuple[Recipe, Recipe],
    machine: tuple[str, int, bool],
    threads: int | None,
    **options: Any,
) -> Study:
    import torch

    from training.experiments.host import Machine
    from training.experiments.study import Study
    from training.host_memory import keep_freed_pages
    from training.train_command import check_device

    check_device(machine[0], recipes[0].optimisation.amp)
    keep_freed_pages()
    if threads is not None:
        torch.set_num_threads(threads)
    bad = sum(len(one.problems) for one in sets)
    left_out = f"; {bad} bad entries left out" if bad else ""
    typer.echo(f"{name}: {len(sets[0])} images to train on, {len(sets[1])} to measure on{left_out}", err=True)
    say = _silent if machine[2] else _say
    return Study(name, *sets, *recipes, machine=Machine(*machine), say=say, bar=_bar, **options)


def _show(result: ClaimResult) -> None:
    from rich.table import Table

    from hindsight.commands.console import output

    shown = Table(title=f"Claim {result.claim.number}: {result.claim.title} ({result.data})")
    for title in ("", "better > worse", "metric", "difference", "95 % interval", "paper", "verdict"):
        shown.add_column(title)
    for finding in result.findings:
        own = finding.difference
        low, high, value, paper = (
            "-" if number is None else f"{number:+.4f}"
            for number in (own.low, own.high, own.value, finding.expected)
        )
        shown.add_row(
            finding.comparison,
            f"{finding.better} > {finding.worse}",
            finding.metric,
            value,
            f"{low} .. {high}",
            paper,
            finding.verdict,
        )
    output().print(shown)


def _say(message: str) -> None:
    typer.echo(message, err=True)


def _silent(message: str) -> None:
    pass


@contextmanager
def _bar(title: str, total: int) -> Iterator[Progress]:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from hindsight.commands.console import progress_console

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=progress_console(), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda count: bar.advance(task, count)
