"""What a server costs on top of its model, and what is left of it under overload: ours, FastAPI, LitServe.

    python -m benchmarks.serving                      both parts, about ten minutes on an idle machine
    python -m benchmarks.serving --part overhead      the shipped model behind each, and behind nothing
    python -m benchmarks.serving --part overload      a model that only waits, and clients that leave

Each server runs the same code on the same model (benchmarks/serving_peers.py). LitServe gets an environment
of its own, made for this run or named with --litserve. Writes benchmarks/results/serving-overhead.json and
serving-overload.json; benchmarks/serving_page.py puts them on docs/bench.md.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console
from rich.table import Table

from benchmarks.servers import Running, process_group
from benchmarks.serving_systems import PACKAGES, System, litserve_python, systems_with, versions_of
from benchmarks.turns import RESULTS, facts, write
from hindsight.bench.load import Closed, Load, Run
from hindsight.bench.presets import Wishes, abandoned, overload
from hindsight.bench.requests import Request, turn
from hindsight.bench.samples import Summary, summarise
from hindsight.bench.session import Session

_SATURATING = 8  # clients
_BARE_RUNS = 15
_WAIT_MS = 100  # of the model that only waits


def main(
    part: Annotated[str, typer.Option(help="overhead, overload or both.")] = "both",
    model: Annotated[str, typer.Option(help="That is served.")] = "cells",
    rounds: Annotated[int, typer.Option(help="Of the overhead: how often everything is measured.")] = 5,
    seconds: Annotated[float, typer.Option(help="Of one saturated measurement.")] = 8.0,
    crowd_seconds: Annotated[float, typer.Option(help="Of one measurement under overload.")] = 20.0,
    litserve: Annotated[
        Path | None, typer.Option(help="A Python that has litserve; an environment is made if left out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = RESULTS,
) -> None:
    """Measure, print and write."""
    if part not in ("both", "overhead", "overload"):
        raise typer.BadParameter(f"{part!r} is none of overhead, overload, both")
    load = os.getloadavg()[0]
    with litserve_python(litserve) as python:
        systems = systems_with(str(python))
        about = {**facts(PACKAGES, load), "litserve_versions": versions_of(python)}
        # --litserve is a place on one machine; litserve_versions says what was there.
        about["command"] = f"python -m benchmarks.serving --part {part}"
        if part in ("both", "overhead"):
            result = overhead(systems, model, rounds, seconds)
            show_overhead(result)
            write(out / "serving-overhead.json", {**result, **about})
        if part in ("both", "overload"):
            for name, backend in (("", f"sleep:{_WAIT_MS}"), (f"-{model}", "onnxruntime")):
                result = overloaded(systems, model, backend, crowd_seconds)
                show_overload(result)
                write(out / f"serving-overload{name}.json", {**result, **about})


# What a server costs


def overhead(systems: Sequence[System], model: str, rounds: int, seconds: float) -> dict[str, Any]:
    """All of them running, one of them asked at a time, in an order drawn anew each round."""
    found: dict[str, list[dict[str, float]]] = {system.name: [] for system in systems}
    rng = random.Random(0)
    with ExitStack() as stack:
        loop = stack.enter_context(bare_loop(model))
        running = {
            system.name: (server, system.requests(server, model))
            for system in systems
            for server in [stack.enter_context(system.start(model, "onnxruntime"))]
        }
        for server, requests in running.values():
            measure(server, requests, Load(Closed(2), seconds=None, requests=10))  # warm
        for _ in range(rounds):
            order = list(running)
            rng.shuffle(order)
            for name in order:
                server, requests = running[name]
                bare = loop()
                alone = measure(server, requests, Load(Closed(1), warm_up=0.5, seconds=None, requests=25))
                busy = measure(
                    server, requests, Load(Closed(_SATURATING), warm_up=1.5, seconds=seconds), whole=False
                )
                found[name].append(
                    {
                        **bare,
                        "single_ms": alone.latency_ms["p50"],
                        "requests_per_second": busy.goodput,
                        "p50_ms": busy.latency_ms["p50"],
                        "p99_ms": busy.latency_ms["p99"],
                    }
                )
    return {
        "what": "the same model behind each server and behind none: one client, then eight",
        "model": model,
        "rounds": rounds,
        "clients": _SATURATING,
        "systems": {name: overhead_of(rows) for name, rows in found.items()},
        "by_round": found,
    }


def overhead_of(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Medians over rounds. The bare model that a server is compared with ran just before it, and is compared
    within its round.
    """
    used = statistics.median(row["requests_per_second"] * row["model_ms"] / 1000 for row in rows)
    return {
        **{key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]},
        "single_overhead_ms": round(
            statistics.median(row["single_ms"] - row["pipeline_ms"] for row in rows), 3
        ),
        "model_share": round(used, 4),
        "overhead_share": round(1 - used, 4),
    }


@contextmanager
def bare_loop(model: str) -> Iterator[Callable[[], dict[str, float]]]:
    """Asks the loop without a server: milliseconds of the model alone, and of photo to JSON."""
    command = [sys.executable, "-m", "benchmarks.serving_peers", "bare", "--model", model]
    with process_group(command) as (process, _):
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        assert stdout.readline() == "ready\n"

        def ask(program: str) -> float:
            stdin.write(f"{program} {_BARE_RUNS}\n")
            stdin.flush()
            return 1000 * statistics.median(json.loads(stdout.readline()))

        yield lambda: {f"{program}_ms": ask(program) for program in ("model", "pipeline")}


def measure(server: Running, requests: list[Request], load: Load, *, whole: bool = True) -> Summary:
    """Every request has to be answered; `whole`: all of `load.requests`."""

    async def work() -> Summary:
        run = Run(server.address, turn(requests), load)
        await run.run()
        return summarise(run.recorder.samples, run.seconds)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        summary = runner.run(work())
    if summary.failures or (whole and summary.good != load.requests):
        raise typer.BadParameter(f"{server.url} failed: {summary.failures}")
    if not summary.good:
        raise typer.BadParameter(f"no request began within {load.seconds:g} s: give more --seconds")
    return summary


def show_overhead(result: dict[str, Any]) -> None:
    columns = (
        "model ms",
        "pipeline ms",
        "single ms",
        "over it",
        "requests/s",
        "model's share",
        "overhead",
        "p99 ms",
    )
    rows = {
        name: (
            f"{row['model_ms']:.1f}",
            f"{row['pipeline_ms']:.1f}",
            f"{row['single_ms']:.1f}",
            f"{row['single_overhead_ms']:+.2f} ms",
            f"{row['requests_per_second']:.2f}",
            f"{row['model_share']:.1%}",
            f"{row['overhead_share']:.1%}",
            f"{row['p99_ms']:.0f}",
        )
        for name, row in result["systems"].items()
    }
    show(f"Overhead, {result['model']}", columns, rows)


# What is left under overload


def overloaded(systems: Sequence[System], model: str, backend: str, seconds: float) -> dict[str, Any]:
    """Scenario by scenario, each server fresh for each: what one leaves behind must not be another's."""
    found: dict[str, dict[str, float | None]] = {system.name: {} for system in systems}
    for scenario in ("rude", "polite", "abandoned"):
        for system in systems:
            facts_ = one_scenario(system, scenario, model, backend, seconds)
            found[system.name] |= {
                f"{scenario}_{name}" if "goodput" in name else name: value for name, value in facts_.items()
            }
    waits = backend.partition(":")[2]
    served = f"a model that waits {waits} ms, one photo at a time" if waits else f"{model}, on all cores"
    return {
        "what": f"{served}; 64 clients of 2 s patience, rude and polite; then the request after 40 that were "
        "given up",
        "seconds": seconds,
        "systems": found,
    }


def one_scenario(
    system: System, scenario: str, model: str, backend: str, seconds: float
) -> dict[str, float | None]:
    """What the preset concludes; None for the time of an answer that never came."""

    async def work(server: Running, requests: list[Request]) -> Session:
        session = Session(server.address)
        wishes = Wishes(lambda images: turn(requests), seconds=seconds)
        if scenario == "abandoned":
            await abandoned(session, wishes, rounds=3)
        else:
            await overload(session, wishes, polite=scenario == "polite")
        return session

    with (
        system.start(model, backend) as server,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        session = runner.run(work(server, system.requests(server, model)))
    found = {name: value for each in session.measured for name, value in each.facts.items()}
    return {name: round(value, 4) if math.isfinite(value) else None for name, value in found.items()}


def show_overload(result: dict[str, Any]) -> None:
    columns = ("capacity/s", "rude goodput", "polite goodput", "next request, median", "worst")
    rows = {
        name: (
            f"{row['capacity_per_second']:.2f}",
            f"{row['rude_goodput_of_capacity']:.0%}",
            f"{row['polite_goodput_of_capacity']:.0%}",
            milliseconds(row["next_median_ms"]),
            milliseconds(row["next_worst_ms"]),
        )
        for name, row in result["systems"].items()
    }
    show(result["what"], columns, rows)


def show(title: str, columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> None:
    """A table with a row for each server."""
    table = Table(title=title)
    for column in ("server", *columns):
        table.add_column(column, justify="right")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console(width=110).print(table)


def milliseconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.0f} ms"


if __name__ == "__main__":
    typer.run(main)
