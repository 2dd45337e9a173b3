"""Half an hour of mixed traffic at 80 % of what the server can take: does it stay as it was.

    python -m benchmarks.soak                   30 minutes on the shipped models
    python -m benchmarks.soak --minutes 3

Starts `hindsight serve` with both shipped models, measures the capacity for the mix, then sends 80 % of that
at random moments: photos of many sizes, several in a request, rescoring, drawn answers, every format, broken
images, clients that leave. Moments and kinds repeat themselves in each third of the time, so that a
difference between the thirds is the server's. Writes benchmarks/results/serving-soak.json and .png; exit
status 1 if a promise of docs/bench.md was not kept.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import uvloop

from benchmarks.process_memory import tree_pss_megabytes
from benchmarks.servers import Running, hindsight_server
from benchmarks.soak_mix import LEAVES, soak_mix
from benchmarks.soak_picture import draw_soak
from benchmarks.turns import RESULTS, facts, write
from hindsight.artifact import Artifact, find_artifact
from hindsight.bench.load import Closed, Load, Open, Run, arrival_times
from hindsight.bench.samples import Sample, percentile, summarise

PACKAGES = ("numpy", "pillow", "onnxruntime", "fastapi", "starlette", "uvicorn", "httptools", "uvloop")
MOST_DRIFT = 0.10  # of p50 and of p99
MOST_REFUSED = 0.01  # of all requests
REFUSED = "503 busy"  # with a Retry-After: random arrivals come in bursts too, even at 80 %
MOST_MEMORY_DRIFT = 50.0  # MB
_SHARE = 0.8  # of the capacity
_CLIENTS = 8
_SETTLE = 30.0  # seconds before the measurement: pools and caches fill
_MEMORY_EVERY = 5.0
_WINDOW = 60.0
_WINDOWS = 9  # at least, where minutes are too few


@dataclass(frozen=True)
class Soaked:
    """What was seen: samples, and memory as (second, MB)."""

    seconds: float
    capacity: float
    rate: float
    samples: list[Sample]
    memory: list[tuple[float, float]]


def main(
    minutes: Annotated[float, typer.Option(help="How long.")] = 30.0,
    rate: Annotated[float | None, typer.Option(help="Requests a second, instead of 80 %.")] = None,
    backend: Annotated[str, typer.Option(help="Runtime of the server.")] = "onnxruntime",
    out: Annotated[Path, typer.Option(help="The JSON file; the picture lies beside it.")] = RESULTS
    / "serving-soak.json",
) -> None:
    """Measure, print, write."""
    load = os.getloadavg()[0]
    models = [find_artifact(name) for name in ("cells", "pcb")]
    named = [option for model in models for option in ("--model", str(model.path))]
    with hindsight_server(*named, "--backend", backend) as server:
        seen = soak(server, models, 60 * minutes, rate)
    result = conclusions(seen)
    for name, promise in result["promises"].items():
        typer.echo(f"{'kept  ' if promise['kept'] else 'BROKEN'} {name}: {promise['measured']}")
    command = " ".join(["python -m benchmarks.soak", *sys.argv[1:]])
    write(out, {**result, "backend": backend, "command": command, **facts(PACKAGES, load)})
    draw_soak(result, out.with_suffix(".png"))
    typer.echo(f"wrote {out} and its picture")
    if not all(promise["kept"] for promise in result["promises"].values()):
        raise typer.Exit(1)


def soak(
    server: Running,
    models: Sequence[Artifact],
    seconds: float,
    rate: float | None,
    *,
    settle: float = _SETTLE,
    measure_capacity: float = 30.0,
) -> Soaked:
    """The traffic, and an eye on the memory of the server's process tree. `rate` None: 80 % of capacity."""

    async def work() -> Soaked:
        patient = Run(
            server.address,
            soak_mix(server.address, models, leaving=False),
            Load(Closed(_CLIENTS), warm_up=5.0, seconds=measure_capacity),
        )
        if rate is None:
            await patient.run()
        capacity = summarise(patient.recorder.samples, patient.seconds).goodput
        asked = _SHARE * capacity if rate is None else rate
        if not asked:
            raise typer.BadParameter("the server answers nothing")
        shape = Open(asked, period=seconds / 3)
        load = Load(shape, warm_up=settle, seconds=seconds)
        third = itertools.takewhile(lambda at: at < seconds / 3, arrival_times(shape, load.seed, 0.0))
        mix = soak_mix(server.address, models, leaving=True, period=sum(1 for _ in third))
        run = Run(server.address, mix, load)
        memory: list[tuple[float, float]] = []
        watching = asyncio.create_task(_watch(run, server.pid, memory))
        try:
            await run.run()
        finally:
            watching.cancel()
        return Soaked(run.seconds, capacity, asked, run.recorder.samples, memory)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work())


async def _watch(run: Run, pid: int, memory: list[tuple[float, float]]) -> None:
    while True:
        megabytes = await asyncio.to_thread(tree_pss_megabytes, pid)
        if run.elapsed >= 0:
            memory.append((run.elapsed, megabytes))
        await asyncio.sleep(_MEMORY_EVERY)


def conclusions(seen: Soaked) -> dict[str, Any]:
    """The result file: windows, drifts, kinds, promises."""
    counted = [sample for sample in seen.samples if 0 <= sample.intended < seen.seconds]
    unexpected = Counter(
        f"{sample.kind}: {sample.outcome}"
        for sample in seen.samples
        if not sample.is_good
        and sample.outcome != REFUSED
        and not (sample.kind == LEAVES and sample.outcome == "gave up")
    )
    refused = sum(sample.outcome == REFUSED for sample in counted) / max(1, len(counted))
    windows = _windows(counted, seen.seconds)
    memory = _memory(seen)
    drifts = {name: _drift([window[name] for window in windows]) for name in ("p50_ms", "p99_ms")}
    promises = {
        "no unexpected error": {"measured": dict(unexpected), "kept": not unexpected},
        f"refused in bursts under {MOST_REFUSED:.0%}": {
            "measured": round(refused, 5),
            "kept": refused < MOST_REFUSED,
        },
        **{
            f"{name.removesuffix('_ms')} drift under {MOST_DRIFT:.0%}": {
                "measured": round(value, 4),
                "kept": abs(value) < MOST_DRIFT,
            }
            for name, value in drifts.items()
        },
        f"memory drift under {MOST_MEMORY_DRIFT:g} MB": {
            "measured": memory["drift_mb"],
            "kept": abs(memory["drift_mb"]) < MOST_MEMORY_DRIFT,
        },
    }
    return {
        "what": "mixed traffic at random moments on hindsight serve",
        "minutes": round(seen.seconds / 60, 3),
        "capacity_per_second": round(seen.capacity, 3),
        "rate": round(seen.rate, 3),
        "kinds": _kinds(counted),
        "drift": {name: round(value, 4) for name, value in drifts.items()},
        "memory": memory,
        "windows": windows,
        "promises": promises,
    }


def _kinds(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """How many of each were sent and rightly answered, and their median."""
    kinds = {}
    for kind in sorted({sample.kind for sample in samples}):
        own = [sample for sample in samples if sample.kind == kind]
        good = [1000 * sample.latency for sample in own if sample.is_good]
        kinds[kind] = {"sent": len(own), "good": len(good)}
        if good:
            kinds[kind] |= {
                "p50_ms": round(percentile(good, 50), 1),
                "p99_ms": round(percentile(good, 99), 1),
            }
    return kinds


def _windows(samples: Sequence[Sample], seconds: float) -> list[dict[str, float]]:
    """p50 and p99 of good answers, minute by minute, a multiple of three of them."""
    count = 3 * max(_WINDOWS // 3, math.floor(seconds / _WINDOW / 3))
    width = seconds / count
    found = []
    for number in range(count):
        own = [
            1000 * sample.latency
            for sample in samples
            if sample.is_good and number * width <= sample.intended < (number + 1) * width
        ]
        if own:
            found.append(
                {
                    "second": round(number * width, 1),
                    "good": len(own),
                    "p50_ms": round(percentile(own, 50), 2),
                    "p99_ms": round(percentile(own, 99), 2),
                }
            )
    return found


def _memory(seen: Soaked) -> dict[str, Any]:
    series = [[round(second, 1), round(megabytes, 1)] for second, megabytes in seen.memory]
    first, last = _thirds([megabytes for _, megabytes in seen.memory])
    return {
        "first_third_mb": round(first, 1),
        "last_third_mb": round(last, 1),
        "drift_mb": round(last - first, 1),
        "series": series,
    }


def _drift(values: Sequence[float]) -> float:
    """How much more the last third is than the first; medians."""
    first, last = _thirds(values)
    return last / first - 1 if first else math.inf


def _thirds(values: Sequence[float]) -> tuple[float, float]:
    """Medians of the first and the last third."""
    size = max(1, len(values) // 3)
    return (statistics.median(values[:size]), statistics.median(values[-size:])) if values else (0.0, 0.0)


if __name__ == "__main__":
    typer.run(main)
