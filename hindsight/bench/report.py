"""What is shown while a bench runs, and afterwards: tables for people, a document for programs."""

from __future__ import annotations

import asyncio
import math
import platform
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hindsight.bench.checks import Check
from hindsight.bench.load import Closed, Run
from hindsight.bench.samples import Sample, percentile
from hindsight.bench.session import Measured, Session
from hindsight.version import __version__

__all__ = ["document", "final_tables", "warnings_of", "watch"]

_REFRESH = 0.25  # seconds
_RECENT = 5.0  # seconds that the live figures look back
_BUSY_CLIENT = 0.8  # of a core, from which the tool may be what is slow
_LATE_MS = 20.0
_MOST_FAILURES = 6  # kinds that are named one by one
_FACTS = {
    "capacity_per_second": ("capacity", "{:.2f} requests a second"),
    "clients_enough": ("clients that suffice for it", "{:.0f}"),
    "goodput_of_capacity": ("goodput, of the capacity", "{:.1%}"),
    "late_goodput_of_capacity": ("the same in the last half", "{:.1%}"),
    "alone_ms": ("a request alone, median", "{:.0f} ms"),
    "next_median_ms": ("the next request, median", "{:.0f} ms"),
    "next_worst_ms": ("the next request, worst", "{:.0f} ms"),
    "alone_p50_ms": ("single image alone, p50", "{:.0f} ms"),
    "beside_p50_ms": ("single image beside the poster, p50", "{:.0f} ms"),
    "beside_worst_ms": ("single image beside the poster, worst", "{:.0f} ms"),
    "poster_images_per_request": ("images in one of the poster's requests", "{:.0f}"),
    "client_addresses": ("addresses that the two come from", "{:.0f}"),
    "poster_images_per_second": ("the poster's images", "{:.2f} a second"),
    "p50_first_ms": ("p50, first third", "{:.1f} ms"),
    "p50_last_ms": ("p50, last third", "{:.1f} ms"),
    "p50_drift": ("p50, drift", "{:+.1%}"),
    "p99_first_ms": ("p99, first third", "{:.1f} ms"),
    "p99_last_ms": ("p99, last third", "{:.1f} ms"),
    "p99_drift": ("p99, drift", "{:+.1%}"),
}


async def watch(session: Session, console: Console) -> None:
    """A live table on a terminal, until cancelled; nothing elsewhere."""
    if not console.is_terminal:
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        while True:
            live.update(Group(*(_live_row(name, run) for name, run in session.current)), refresh=True)
            await asyncio.sleep(_REFRESH)


def _live_row(name: str, run: Run) -> RenderableType:
    now, samples = run.elapsed, run.recorder.samples
    recent = list(_recent(samples, now - _RECENT))
    span = max(_REFRESH, min(_RECENT, now + run.load.warm_up))
    good = [1000 * sample.latency for sample in recent if sample.is_good]
    table = Table(title=f"{name}{' (warm-up)' if now < 0 else ''}", title_justify="left")
    cells = {
        "second": f"{now:.0f}" + (f" of {run.load.seconds:.0f}" if run.load.seconds else ""),
        "answers/s": f"{sum(sample.status > 0 for sample in recent) / span:.1f}",
        "goodput/s": f"{len(good) / span:.1f}",
        **{f"p{percent} ms": f"{percentile(good, percent):.0f}" if good else "-" for percent in (50, 90, 99)},
        "in flight": str(run.recorder.in_flight),
        "not good": _counted(Counter(sample.outcome for sample in recent if not sample.is_good)),
    }
    for column in cells:
        table.add_column(column, justify="right")
    table.add_row(*cells.values())
    return table


def _recent(samples: Sequence[Sample], since: float) -> list[Sample]:
    found = []
    for sample in reversed(samples):  # in the order they ended
        if sample.done < since:
            break
        found.append(sample)
    return found


def _counted(counts: Counter[str]) -> str:
    shown = [f"{what} {count}" for what, count in counts.most_common(_MOST_FAILURES)]
    rest = len(counts) - len(shown)
    return ", ".join([*shown, f"and {rest} more"] if rest > 0 else shown) or "-"


def final_tables(measured: Sequence[Measured]) -> list[RenderableType]:
    """Each load in a row, failures, what the server says of its time, conclusions."""
    parts: list[RenderableType] = [_loads_table(measured)]
    if any(each.summary.failures for each in measured):
        parts.append(_failures_table(measured))
    told = next((each for each in reversed(measured) if each.judged and each.summary.stages_ms), None)
    if told is not None:
        parts.append(_stages_table(told))
    facts = [(name, value) for each in measured for name, value in each.facts.items()]
    if facts:
        table = Table(show_header=False)
        for name, value in facts:
            title, form = _FACTS[name]
            shown = form.format(value) if math.isfinite(value) else "never: no good answer"
            table.add_row(title, Text(shown, justify="right"))
        parts.append(table)
    return parts


def _loads_table(measured: Sequence[Measured]) -> Table:
    table = Table("load")
    columns = ("s", "sent", "good", "all/s", "good/s", "images/s", "p50 ms", "p90", "p99", "max")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for each in measured:
        summary = each.summary
        cells = [
            f"{summary.seconds:.1f}",
            str(summary.requests),
            str(summary.good),
            f"{summary.requests_per_second:.2f}",
            f"{summary.goodput:.2f}",
            f"{summary.images_per_second:.2f}",
        ]
        latencies = (
            f"{summary.latency_ms[name]:.1f}" if summary.latency_ms else "-"
            for name in ("p50", "p90", "p99", "max")
        )
        table.add_row(Text(f"{each.name}: {_shape(each)}"), *cells, *latencies)
    return table


def _shape(each: Measured) -> str:
    shape = each.load.shape
    if isinstance(shape, Closed):
        return f"{shape.clients} client{'s' * (shape.clients != 1)}"
    return f"{shape.rate:.4g}/s {shape.arrivals}"


def _failures_table(measured: Sequence[Measured]) -> Table:
    table = Table("load", "without a good answer")
    for column in ("requests", "of all"):
        table.add_column(column, justify="right")
    for each in measured:
        for what, count in each.summary.failures.items():
            table.add_row(Text(each.name), Text(what), str(count), f"{count / each.summary.requests:.1%}")
    return table


def _stages_table(each: Measured) -> Table:
    table = Table(title=f"Where the time of one image goes: {each.name}", title_justify="left")
    for column in ("stage", "mean ms", "p50 ms", "p99 ms", "of the client's mean"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for name, stage in each.summary.stages_ms.items():
        share = "-" if stage.share is None else f"{stage.share:.1%}"
        table.add_row(name, f"{stage.mean:.2f}", f"{stage.p50:.2f}", f"{stage.p99:.2f}", share)
    latency = each.summary.latency_ms
    table.add_row("client", *(f"{latency[name]:.2f}" for name in ("mean", "p50", "p99")), "", style="bold")
    return table


def warnings_of(measured: Sequence[Measured]) -> list[str]:
    """What makes figures doubtful: a tool that was itself too slow."""
    found = []
    for each in measured:
        if each.cpu_share > _BUSY_CLIENT:
            found.append(
                f"{each.name}: this tool used {each.cpu_share:.0%} of a core; the server may be faster than "
                "it could ask: run several benches, or fewer clients"
            )
        if each.summary.late_ms > _LATE_MS and not isinstance(each.load.shape, Closed):
            found.append(
                f"{each.name}: 1 % of requests were sent {each.summary.late_ms:.0f} ms late or more, which "
                "their latency contains: this machine was busy"
            )
    return found


def document(
    about: dict[str, Any], measured: Sequence[Measured], checks: Sequence[Check], interrupted: bool
) -> dict[str, Any]:
    """All of it as JSON."""
    return {
        **about,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "client": {
            "hindsight": __version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "system": platform.system(),
            "clock_resolution_ms": 1000 * time.get_clock_info("perf_counter").resolution,
        },
        "interrupted": interrupted,
        "measured": [each.to_json() for each in measured],
        "checks": [{"limit": each.text, "kept": each.kept} for each in checks],
    }
