"""Writes the figures on docs/bench.md from benchmarks/results/serving-*.json, so that none is typed by hand.

    python -m benchmarks.serving_page            rewrites the marked block of the page
    python -m benchmarks.serving_page --check    fails if it is not what the results say

The results are those of `python -m benchmarks.serving` and `python -m benchmarks.soak`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.readme import RESULTS, ROOT, keep_page, table

PAGE = ROOT / "docs" / "bench.md"
BLOCK = "serving"
Result = dict[str, Any]


def blocks(results: Path = RESULTS) -> str:
    """All measurements; one that was not made says so."""
    parts = {
        "serving-overhead": ("What the server costs", overhead),
        "serving-overload": ("What is left under overload", overload),
        "serving-overload-cells": ("The same with a real model", overload),
        "serving-soak": ("Half an hour of mixed traffic", soak),
    }
    texts = []
    for name, (title, text_of) in parts.items():
        file = results / f"{name}.json"
        result = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        said = "Not measured yet." if result is None else text_of(result)
        texts.append(f"### {title}\n\n{said}")
    return "\n\n".join(texts)


def overhead(result: Result) -> str:
    """One row a server."""
    rows = [
        [
            name,
            f"{row['single_ms']:.1f}",
            f"{row['single_overhead_ms']:+.1f}",
            f"{row['requests_per_second']:.2f}",
            f"{row['overhead_share']:.1%}",
            f"{row['p99_ms']:.0f}",
        ]
        for name, row in result["systems"].items()
    ]
    header = ["", "one client, ms", "more than no server, ms", f"{result['clients']} clients, requests/s"]
    shown = table([*header, "overhead", "p99, ms"], rows)
    ours = result["systems"]["Hindsight"]
    return (
        f"`{result['model']}`, one photo a request: {ours['model_ms']:.1f} ms in the model alone, "
        f"{ours['pipeline_ms']:.1f} ms from photo to JSON in a plain loop without a server. Overhead is "
        f"1 - requests/s x model time, at {result['clients']} clients; medians over {result['rounds']} "
        f"rounds, in turns.\n\n{shown}\n\n{origin(result)}"
    )


def overload(result: Result) -> str:
    """One row a server."""
    rows = [
        [
            name,
            f"{row['capacity_per_second']:.1f}",
            goodput_of(row, "rude"),
            goodput_of(row, "polite"),
            f"{time_of(row['next_median_ms'])} ({time_of(row['next_worst_ms'])})",
        ]
        for name, row in result["systems"].items()
    ]
    header = ["", "capacity/s", "goodput, rude", "goodput, polite", "next request, ms: median (worst)"]
    said = (
        f"{result['what'].capitalize()}. Goodput is a share of the capacity, over {result['seconds']:g} s; "
        "in brackets that of the last half, when what the first seconds left behind has come to bear."
    )
    return f"{said}\n\n{table(header, rows)}\n\n{origin(result)}"


def goodput_of(row: Result, manners: str) -> str:
    """All of it, and the last half."""
    whole, late = (row[f"{manners}_{kind}goodput_of_capacity"] for kind in ("", "late_"))
    return f"{whole:.0%} ({late:.0%})"


def time_of(milliseconds: float | None) -> str:
    return "never" if milliseconds is None else f"{milliseconds:.0f}"


def soak(result: Result) -> str:
    """What was sent, what was promised and what came, and the picture."""
    rows = [
        [name, shown(name, promise["measured"]), "yes" if promise["kept"] else "**no**"]
        for name, promise in result["promises"].items()
    ]
    sent = sum(kind["sent"] for kind in result["kinds"].values())
    return (
        f"{result['minutes']:g} minutes at {result['rate']:.2f} requests a second, of a capacity of "
        f"{result['capacity_per_second']:.2f}: {sent} requests of {len(result['kinds'])} kinds.\n\n"
        f"{table(['promise', 'measured', 'kept'], rows)}\n\n"
        "![Latency and memory over the minutes of the soak](../benchmarks/results/serving-soak.png)\n\n"
        f"{origin(result)}"
    )


def shown(promise: str, measured: float | dict[str, int]) -> str:
    if isinstance(measured, dict):
        return "; ".join(f"{count} x {what}" for what, count in measured.items()) or "none"
    return f"{measured:+.1f} MB" if promise.endswith("MB") else f"{measured:+.1%}"


def origin(result: Result) -> str:
    """Where, when, with what."""
    hardware = result["hardware"]
    peer = result.get("litserve_versions", {}).get("litserve")
    versions = {name: result["versions"][name] for name in ("onnxruntime", "fastapi", "uvicorn")}
    if peer is not None:
        versions["litserve"] = peer
    said = ", ".join(f"{name} {number}" for name, number in versions.items())
    return (
        f"{hardware['cpu']}, {hardware['cores']} cores; {said}; commit {result['commit']}, "
        f"{result['date'][:10]}. {result['note']}"
    )


if __name__ == "__main__":
    sys.exit(keep_page(PAGE, lambda: {BLOCK: blocks()}, "python -m benchmarks.serving_page", sys.argv[1:]))
