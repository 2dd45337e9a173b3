"""Comparing programs on a machine whose speed changes: each runs once a round, ratios are of one round."""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_BUSY = 0.5  # load beyond our own threads from which figures are only ratios


def in_turns(programs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each program in each round, in an order drawn anew each time; the first is not timed."""
    order, rng = list(programs), random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    for turn in range(rounds + 1):
        rng.shuffle(order)
        for name in order:
            start = time.perf_counter()
            programs[name]()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def summary(seconds: Mapping[str, Sequence[float]], against: str) -> dict[str, dict[str, float]]:
    """Median and least milliseconds, and how many times as fast as `against`: the median over rounds."""
    table = {}
    for name, own in seconds.items():
        ratios = [other / mine for other, mine in zip(seconds[against], own, strict=True)]
        table[name] = {
            "median_ms": round(1000 * statistics.median(own), 2),
            "min_ms": round(1000 * min(own), 2),
            "times_as_fast": round(statistics.median(ratios), 3),
        }
    return table


def facts(packages: Sequence[str], load_before: float) -> dict[str, Any]:
    """Commit, date, hardware, load and versions, and a note where the machine was not ours alone."""
    load = max(load_before, 0.0)
    busy = load > _BUSY
    return {
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "hardware": _hardware(),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "note": (
            "The machine was busy with other work: milliseconds say little, and ratios, taken within rounds, "
            "more. To be run again on an idle machine."
            if busy
            else "The machine was idle before the run."
        ),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in packages}},
    }


def write(path: Path, document: Mapping[str, Any]) -> None:
    """The result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _hardware() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
