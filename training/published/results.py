"""What a run of a table leaves behind, and how it is shown: ours beside the paper's, and the difference."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table as Grid

from hindsight.errors import OptionError
from hindsight.whole_files import whole_file
from training.published.rows import PRINTED_ONLY, Row, Table

_DECIMALS = {"seconds": 3, "GFLOPs": 2, "params": 2, "pearson": 3}
NOT_COMPARABLE = "not the paper's schedule or data"


@dataclass(frozen=True)
class Result:
    """One finished row. `training` names its run's folder; `deviations`: why ours is not comparable."""

    table: str
    row: str
    training: str
    ours: dict[str, float | None]
    deviations: list[str]
    test_images: int


@dataclass(frozen=True)
class Line:
    """A row, its result, or why there is none."""

    row: Row
    result: Result | None
    reason: str = ""


def result_path(out: Path, row: Row) -> Path:
    """Where a finished row is kept."""
    return out / "rows" / f"{row.table.replace(':', '-')}-{row.number:02}.json"


def read_result(out: Path, row: Row, training: str, test_images: int) -> Result | None:
    """The finished row, None if it is still to be run. Raises OptionError if other settings made it."""
    path = result_path(out, row)
    if not path.is_file():
        return None
    try:
        found = Result(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise OptionError(f"{path} is no result of this version: move it away ({error})") from error
    if (found.training, found.test_images) != (training, test_images) or found.row != row.label:
        raise OptionError(
            f"{out} holds {row} from a run with other settings ({found.training}, {found.test_images} test "
            f"images; now {training}, {test_images}): choose another --out"
        )
    return found


def write_result(out: Path, row: Row, result: Result) -> None:
    """Keep a finished row."""
    _write(result_path(out, row), _json(asdict(result)))


def write_table(out: Path, table: Table, lines: Sequence[Line]) -> list[Path]:
    """The table as JSON and as markdown."""
    document = {
        "table": table.id,
        "title": table.title,
        "comparable": not any(line.result.deviations for line in lines if line.result),
        "rows": [_record(line, table.metrics) for line in lines],
    }
    paths = [out / f"{table.slug}.json", out / f"{table.slug}.md"]
    _write(paths[0], _json(document))
    _write(paths[1], "\n".join(markdown(table, lines)) + "\n")
    return paths


def markdown(table: Table, lines: Sequence[Line]) -> Iterator[str]:
    """Three lines a row: the paper's figures, ours, the difference."""
    yield f"# {table.id}: {table.title}"
    yield ""
    notes = remarks(lines)
    if notes:
        yield f"**Ours: {NOT_COMPARABLE}.** The differences say nothing about the paper:"
        yield ""
        yield from (f"- {note}" for note in notes)
        yield ""
    yield f"| row | | {' | '.join(table.metrics)} |"
    yield f"|---|---|{'---:|' * len(table.metrics)}"
    for line in lines:
        for first, who, cells in _cells(line, table.metrics):
            yield f"| {first} | {who} | {' | '.join(cells)} |"
    yield ""
    yield f"{', '.join(PRINTED_ONLY)}: the paper's only. AP in percent, params in millions."
    for line in lines:
        if line.row.note:
            yield f"\nRow {line.row.number}: {line.row.note}."


def grid(table: Table, lines: Sequence[Line]) -> Grid:
    """The same for the terminal."""
    shown = Grid(title=f"{table.id}: {table.title}", title_justify="left", caption_justify="left")
    shown.add_column("row")
    shown.add_column("")
    for name in table.metrics:
        shown.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        for first, who, cells in _cells(line, table.metrics):
            shown.add_row(first, who, *cells)
        shown.add_section()
    notes = remarks(lines)
    if notes:
        shown.caption = f"ours: {NOT_COMPARABLE}: " + "; ".join(notes)
    return shown


def remarks(lines: Sequence[Line]) -> list[str]:
    """Every deviation once."""
    found = (note for line in lines if line.result for note in line.result.deviations)
    return list(dict.fromkeys(found))


def _cells(line: Line, metrics: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    paper = line.row.expected
    yield f"{line.row.number} {line.row.label}", "paper", [_shown(n, paper[n]) for n in metrics]
    if line.result is None:
        yield line.reason, "ours", ["-"] * len(metrics)
        return
    ours = line.result.ours
    yield "", "ours", [_shown(n, ours.get(n)) for n in metrics]
    yield "", "diff", [_signed(n, _difference(ours.get(n), paper[n])) for n in metrics]


def _record(line: Line, metrics: Sequence[str]) -> dict[str, Any]:
    row, result = line.row, line.result
    ours: Mapping[str, float | None] = {} if result is None else result.ours
    return {
        "number": row.number,
        "row": row.label,
        "paper": dict(row.expected),
        "ours": None if result is None else dict(ours),
        "difference": {name: _difference(ours.get(name), row.expected[name]) for name in metrics},
        "training": None if result is None else result.training,
        "deviations": [] if result is None else result.deviations,
        "not_run": line.reason or None,
        "note": row.note or None,
    }


def _difference(ours: float | None, paper: float | None) -> float | None:
    return None if ours is None or paper is None else round(ours - paper, 4)


def _shown(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.{_DECIMALS.get(name, 1)}f}"


def _signed(name: str, value: float | None) -> str:
    return "" if value is None else f"{value:+.{_DECIMALS.get(name, 1)}f}"


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
