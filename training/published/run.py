"""A table from start to end: train what its rows need, measure each, write. Killed, it goes on where it was.

In `out`: runs/KEY/, one folder a training run, as `hindsight train` leaves it; rows/, a file for each
finished row; TABLE.json and TABLE.md. Tables that share an `out` share training runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from training.evaluation.predict import Progress
from training.loop import LAST, STATE, Run, train
from training.published.data import Data
from training.published.measure import measure
from training.published.plan import Changes, Training, deviations
from training.published.results import Line, Result, read_result, write_result, write_table
from training.published.rows import Row, Table


@dataclass(frozen=True)
class Machine:
    """Where and how it runs; none of it changes what is learnt."""

    device: str = "cpu"
    workers: int = 2
    save_every: int = 200
    quiet: bool = False
    say: Callable[[str], None] = lambda message: None
    bar: Callable[[int], AbstractContextManager[Progress]] | None = None


def reproduce(
    table: Table,
    rows: Sequence[Row],
    trainings: Sequence[Training],
    left_out: Mapping[int, str],
    changes: Changes,
    data: Data,
    out: Path,
    machine: Machine,
) -> list[Line]:
    """Every one of `rows` with its result; the table's files are written anew after each finished row.

    A finished row is not run again. Raises OptionError if `out` holds rows from other settings, and what
    training raises.
    """
    finished = {
        row.number: result
        for training in trainings
        for row in training.rows
        if (result := read_result(out, row, training.key, len(data.test))) is not None
    }

    def lines() -> list[Line]:
        return [Line(row, finished.get(row.number), left_out.get(row.number, "")) for row in rows]

    for number, training in enumerate(trainings, start=1):
        open_rows = [row for row in training.rows if row.number not in finished]
        if not open_rows:
            continue
        named = ", ".join(f"{row.number} {row.label}" for row in open_rows)
        machine.say(f"[{number}/{len(trainings)}] training {training.key} for {named}")
        checkpoint = _train(training, changes, data, out, machine)
        for row in open_rows:
            machine.say(f"[{number}/{len(trainings)}] measuring {row.number} {row.label}")
            finished[row.number] = _measure(row, table, training, checkpoint, changes, data, machine)
            write_result(out, row, finished[row.number])
            write_table(out, table, lines())
    write_table(out, table, lines())
    return lines()


def _train(training: Training, changes: Changes, data: Data, out: Path, machine: Machine) -> Path:
    """The last epoch's checkpoint, which is what the papers measure; a finished run is left as it is."""
    folder = out / "runs" / training.key
    run = Run(
        training.recipe,
        data.training,
        folder,
        weights=changes.weights,
        seed=changes.seed,
        device=machine.device,
        workers=machine.workers,
        save_every=machine.save_every,
        resume=(folder / STATE).exists(),
        quiet=machine.quiet,
    )
    train(run)
    return folder / LAST


def _measure(
    row: Row,
    table: Table,
    training: Training,
    checkpoint: Path,
    changes: Changes,
    data: Data,
    machine: Machine,
) -> Result:
    batch_size = min(training.recipe.optimisation.batch_size, 8)
    with _bar(machine, len(data.test)) as progress:
        figures = measure(
            checkpoint,
            row.inference,
            data.test,
            correlation="pearson" in table.metrics,
            batch_size=batch_size,
            device=machine.device,
            progress=progress,
        )
    notes = deviations(row, training.recipe, changes, data)
    return Result(row.table, row.label, training.key, figures, notes, len(data.test))


def _bar(machine: Machine, total: int) -> AbstractContextManager[Progress | None]:
    return nullcontext() if machine.bar is None or machine.quiet else machine.bar(total)
