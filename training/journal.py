"""What a run says while it runs: a progress bar with losses and ETA, a CSV row per step, TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch.utils.tensorboard import SummaryWriter


class Journal:
    """`losses.csv` (a row per step), `validation.csv` (a row per epoch) and TensorBoard files in `folder`.

    A resumed run appends; rows past the step it resumes from are dropped, so that no step is told twice.
    """

    def __init__(self, folder: Path, total_steps: int, first_step: int, *, quiet: bool) -> None:
        self.folder = folder
        for name in ("losses.csv", "validation.csv"):
            _drop_rows(folder / name, first_step)
        self.tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)
        self.console = Console(stderr=True, quiet=quiet)
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=quiet,
        )
        self.task = self.bar.add_task("train", total=total_steps, completed=first_step, epoch="1", note="")

    def __enter__(self) -> Journal:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()
        self.tensorboard.close()

    def step(self, step: int, epoch: int, rate: float, losses: Mapping[str, float]) -> None:
        """One optimisation step: losses by name, and their sum."""
        total = sum(losses.values())
        note = f"loss {total:.3f} " + " ".join(f"{k} {v:.3f}" for k, v in losses.items())
        self.bar.update(self.task, completed=step + 1, epoch=str(epoch + 1), note=note)
        row = {"step": step, "epoch": epoch, "lr": rate, "loss": total, **losses}
        _append(self.folder / "losses.csv", row)
        for name, value in {"loss": total, **losses}.items():
            self.tensorboard.add_scalar(f"train/{name}", value, step)
        self.tensorboard.add_scalar("train/lr", rate, step)

    def validation(self, step: int, epoch: int, figures: Mapping[str, float]) -> None:
        """One validation: its figures, shown and kept."""
        _append(self.folder / "validation.csv", {"step": step, "epoch": epoch, **figures})
        for name, value in figures.items():
            self.tensorboard.add_scalar(f"validation/{name}", value, step)
        shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        self.console.print(f"epoch {epoch + 1}: {shown}")

    def say(self, message: str) -> None:
        """One line above the bar."""
        self.console.print(message)


def _append(path: Path, row: Mapping[str, float]) -> None:
    new = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(row.keys())
        writer.writerow(f"{v:.6g}" if isinstance(v, float) else v for v in row.values())


def _drop_rows(path: Path, first_step: int) -> None:
    if not path.exists():
        return
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    kept = rows[:1] + [row for row in rows[1:] if row and row[0].isdigit() and int(row[0]) < first_step]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(kept)
