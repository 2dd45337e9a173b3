"""`hindsight parity`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from export.parity_result import ApDifference, CandidateResult, RunResult

_PAST_TOLERANCE = 1
_GAPS = {
    "boxes": "box corner, input px",
    "scores": "score",
    "class_scores": "class score",
    "ious": "IoU",
    "purities": "purity",
    "integrities": "integrity",
    "masks": "mask cell",
}


def parity(
    model: Annotated[str, typer.Argument(help="Name or folder of the model.", metavar="ARTIFACT")],
    backends: Annotated[
        str,
        typer.Option(
            help="Runtimes as `hindsight serve` takes them, with commas between, the first the reference; "
            "NAME@DEVICE for a device of its own. As in onnxruntime@cpu,torch:fp16@cuda."
        ),
    ],
    images: Annotated[Path, typer.Option(help="Folder of photos to compare on.")],
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    batch: Annotated[int, typer.Option(min=1, help="Most images in a batch.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first N images.")] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="COCO JSON file of these images, to measure AP against.")
    ] = None,
    tolerance: Annotated[
        str | None,
        typer.Option(
            help="PIXELS,SCORE that two detections may differ by, as in 0.5,0.01. (default: by precision)"
        ),
    ] = None,
    outliers: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of detections that may differ by more. (default: by precision)"
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each runtime.")] = None,
    out: Annotated[Path, typer.Option(help="JSON file to write.")] = Path("parity.json"),
) -> None:
    """Compare runtimes on the same photos. Exit status 1 where one differs by more than its tolerance."""
    # Heavy imports wait until the command is called.
    from export.parity_run import Request, run_parity
    from hindsight.commands.console import fail, output, progress_console
    from hindsight.errors import HindsightError, OptionError

    try:
        if not out.absolute().parent.is_dir():
            raise OptionError(f"--out must be a file to write, there is no folder {out.parent}")
        if out.is_dir():
            raise OptionError(f"--out must be a file to write, {out} is a folder")
        request = Request.parse(model, backends, device, tolerance, outliers)
        with progress_console().status("starting") as status:
            result = run_parity(
                request,
                images,
                annotations,
                batch=batch,
                limit=limit,
                threads=threads,
                progress=status.update,
            )
        out.write_text(json.dumps(result.to_json(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    except (HindsightError, OSError) as error:
        fail(str(error))
    console = output()
    for candidate in result.candidates:
        console.print(_table(candidate, result.reference))
    for line in _summary(result.candidates, out):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not result.passed:
        raise typer.Exit(_PAST_TOLERANCE)


def _table(candidate: CandidateResult, reference: str) -> Table:
    from rich.table import Table

    runs = [*candidate.runs, *((candidate.rescored,) if candidate.rescored else ())]
    table = Table("", title=f"{candidate.backend} against {reference}: largest (mean) differences")
    for run in runs:
        table.add_column(run.run, justify="right")
    counts: dict[str, Callable[[RunResult], int]] = {
        "images": lambda run: run.images,
        "matched": lambda run: run.matched,
        "at a cliff": lambda run: run.at_a_cliff,
        "outliers": lambda run: run.outliers,
    }
    for title, count in counts.items():
        table.add_row(title, *(str(count(run)) for run in runs))
    for name, title in _GAPS.items():
        if any(name in run.gaps for run in runs):
            table.add_row(title, *(_gap(run, name) for run in runs))
    return table


def _gap(run: RunResult, name: str) -> str:
    gap = run.gaps.get(name)
    return "-" if gap is None else f"{gap.max:.1e} ({gap.mean:.0e})"


def _summary(candidates: Sequence[CandidateResult], out: Path) -> Iterator[str]:
    for candidate in candidates:
        limits = candidate.tolerance
        verdict = "passed" if candidate.passed else "FAILED"
        yield (
            f"{candidate.backend}: {verdict} at {candidate.precision} tolerance "
            f"({limits.pixels:g} px, {limits.score:g}; {candidate.outliers_allowed:.1%} may differ by more)"
        )
        yield from (f"  {problem}" for problem in candidate.problems())
        yield f"  {_ap(candidate.ap)}"
        if candidate.recorded_in is not None:
            yield f"  recorded in {candidate.recorded_in}"
    yield f"wrote {out}"


def _ap(ap: ApDifference) -> str:
    if ap.candidate is None:
        return f"no AP: {ap.missing}"
    if ap.reference is None or ap.difference is None:
        return f"AP of the candidate against {ap.against}: {ap.candidate:.4f}"
    figures = f"{ap.candidate:.4f}, the reference {ap.reference:.4f} ({ap.difference:+.4f})"
    return f"AP against {ap.against}: {figures}"
