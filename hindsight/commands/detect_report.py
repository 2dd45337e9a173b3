"""What `hindsight detect` says: tables and JSON lines on stdout; bar, problems and summary on stderr."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from hindsight.commands.console import complain, output, progress_console
from hindsight.jobs.entries import Entry
from hindsight.jobs.outputs import Model, json_line, record_of
from hindsight.jobs.run import Tally

__all__ = ["Report", "duration", "show_json", "show_table", "summary"]

_MANY = 4  # pictures from which a progress bar is worth its line
_RECENT = 200  # pictures that the rate is measured on
_LINE_SECONDS = 60.0  # between lines where there is no terminal for a bar


class Report:
    """See hindsight.jobs.run.Listener. A bar on a terminal; elsewhere, of `long` jobs, a line a minute.

    total: pictures, as far as known. earlier: how many of them a run before has done.
    """

    def __init__(self, total: int, *, earlier: int = 0, long: bool = False) -> None:
        self._total = total
        self._earlier = earlier
        self._done = 0
        self._failed = 0
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._lines = long
        self._told = time.monotonic()
        console = progress_console()
        self._shown = console.is_terminal and total >= _MANY
        # Redirecting would print what goes to stdout on the bar's console, which is stderr.
        self._bar = Progress(
            TextColumn("detecting"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=console,
            transient=True,
            disable=not self._shown,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = self._bar.add_task("detecting", total=total, pace="")

    def __enter__(self) -> Report:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, pictures: int) -> None:
        """There are so many more, or fewer."""
        self._total += pictures
        if self._total >= _MANY and not self._shown and self._bar.console.is_terminal:
            self._shown, self._bar.disable = True, False
            self._bar.start()
        self._bar.update(self._task, total=self._total)

    def advance(self, entry: Entry, *, earlier: bool) -> None:
        """One more is done."""
        self._done += 1
        self._failed += entry.problem is not None
        if earlier:
            self._earlier = max(0, self._earlier - 1)
        else:
            self._recent.append(time.monotonic())
        self._bar.update(self._task, advance=1, pace=self.pace())
        if self._lines and not self._shown and time.monotonic() - self._told > _LINE_SECONDS:
            self._told = time.monotonic()
            failed = f", {self._failed:,} failed" if self._failed else ""
            complain(f"{self._done:,} of {self._total:,} done{failed}  {self.pace()}")

    def say(self, line: str) -> None:
        """One line on stderr."""
        with self.paused():
            complain(line)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar off the terminal while something else is printed there."""
        if self._shown:
            self._bar.stop()
        try:
            yield
        finally:
            if self._shown:
                self._bar.start()

    def pace(self) -> str:
        """Rate and time left, by what was done last; nothing as long as that says little."""
        if len(self._recent) < 2 or self._recent[-1] <= self._recent[0]:
            return ""
        rate = (len(self._recent) - 1) / (self._recent[-1] - self._recent[0])
        left = max(0, self._total - self._done - self._earlier)
        return f"{rate:.3g}/s, {duration(left / rate)} left"


def summary(tally: Tally, seconds: float, files: list[str]) -> str:
    """One line: images, boxes, failures with their reasons, seconds, where the results are."""
    parts = [_count(tally.images, "image")] if tally.images or not tally.frames else []
    if tally.frames:
        parts.append(_count(tally.frames, "frame"))
    earlier = f" ({tally.earlier:,} of them before)" if tally.earlier else ""
    failed = sum(tally.failed.values())
    reasons = ", ".join(f"{count:,} {code}" for code, count in tally.failed.most_common())
    told = f"{failed:,} failed ({reasons})" if failed else "none failed"
    line = f"{' and '.join(parts)}{earlier}, {_count(tally.boxes, 'box')}, {told}, in {duration(seconds)}"
    return f"{line}: {', '.join(files)}" if files else line


def duration(seconds: float) -> str:
    """For people: 4.2 s, 3 min 20 s, 11 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def show_json(entry: Entry, model: Model) -> None:
    """One line on stdout."""
    typer.echo(json_line(record_of(entry, model), _encoding()))


def show_table(entry: Entry) -> None:
    """A table on stdout."""
    assert entry.size is not None and entry.detections is not None
    width, height = entry.size
    moment = "" if entry.timestamp is None else f"  {entry.timestamp:.3f} s"
    name = os.fsencode(entry.name).decode("utf-8", "replace")
    title = Text(f"{_printable(name)}{moment}  {width} x {height}  {entry.boxes} found")
    table = Table("label", title=title, title_justify="left")
    for column in ("score", "class score", "IoU", "purity", "integrity", "box: x1, y1, x2, y2"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in entry.detections:
        numbers = (row[key] for key in ("score", "class_score", "iou", "purity", "integrity"))
        table.add_row(
            Text(_printable(row["label"])),
            *("-" if value is None else f"{value:.3f}" for value in numbers),
            ", ".join(f"{value:.1f}" for value in row["box"]),
        )
    output().print(table)


def _encoding() -> str:
    """Of stdout; of none, where it was closed."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def _printable(text: str) -> str:
    """With ? for what stdout's encoding does not have."""
    return text.encode(_encoding(), "replace").decode(_encoding())


def _count(number: int, what: str) -> str:
    plural = "es" if what.endswith("x") else "s"
    return f"{number:,} {what}{'' if number == 1 else plural}"
