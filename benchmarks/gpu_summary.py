"""What the rows of benchmarks/gpu.py say beside the goals: ratios, costs, shares of the ceiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.gpu_systems import Scale

# host_syncs: of a batch served, whose answer is waited for once
GOALS = {"times_torchvision": 4.0, "dir_cost": 0.04, "host_syncs": 1}
Result = dict[str, Any]
OURS = ("baseline", "decoupled cascade", "decoupled cascade + DIR")


def with_shares(result: Result) -> None:
    """Add teraflops and share_of_ceiling to every timed row whose arithmetic is known.

    torchvision's detector has our baseline's arithmetic. fp32 convolutions run in tf32 unless forbidden.
    """
    ceilings = {row["precision"]: row["teraflops"] for row in _rows(result, "ceiling") if "teraflops" in row}
    works = {part: _work(result, part) for part in OURS}
    peers = dict.fromkeys(("torchvision", "torchvision compiled"), works["baseline"])
    for part, work in (works | peers).items():
        for row in _rows(result, part):
            limit = ceilings.get(row.get("precision") or "")
            if row.get("precision") == "fp32":
                limit = ceilings.get("tf32", limit)
            if work and "images_per_second" in row:
                row["teraflops"] = round(2 * work * row["images_per_second"] / 1e3, 3)
                if limit:
                    row["share_of_ceiling"] = round(row["teraflops"] / limit, 4)


def summary_of(result: Result, scale: Scale) -> Result:
    """Ratios at the batch that is compared; a figure that was not measured is None."""
    batch = scale.middle
    fp32 = _best(result, "torchvision", batch, ("fp32",))
    autocast = _best(result, "torchvision", batch, scale.precisions)
    compiled = _best(result, "torchvision compiled", batch, ("fp32", *scale.precisions))
    found: Result = {
        "batch": batch,
        "goals": GOALS,
        "images_per_second": {
            "torchvision fp32 eager": fp32,
            "torchvision autocast": autocast,
            "torchvision compiled": compiled,
        },
        "times_torchvision": {},
        "dir_cost": _dir_costs(result),
        "host_syncs": {},
    }
    for part in OURS:
        ours = _best(result, part, batch, scale.precisions)
        found["images_per_second"][part] = ours
        found["times_torchvision"][part] = {
            name: _ratio(ours, peer)
            for name, peer in (("fp32 eager", fp32), ("autocast", autocast), ("compiled", compiled))
        }
    for part in ("torchvision", *OURS):
        syncs = [row["host_syncs"] for row in _rows(result, part) if row.get("host_syncs") is not None]
        found["host_syncs"][part] = max(syncs) if syncs else None
    return found


def _dir_costs(result: Result) -> Result:
    """Time with the head over time without, less one, by host and D."""
    times = {
        (row["host"], row["looks"]): row["milliseconds"]
        for row in _rows(result, "dir cost")
        if "milliseconds" in row
    }
    return {
        f"{host}, {looks}": round(taken / times[host, "host"] - 1, 4)
        for (host, looks), taken in times.items()
        if looks != "host" and (host, "host") in times
    }


def _best(result: Result, part: str, batch: int, precisions: Sequence[str]) -> float | None:
    """Of all modes but `served`: torchvision's inputs, too, lie on the GPU already."""
    found = [
        row["images_per_second"]
        for row in _rows(result, part)
        if row.get("batch") == batch
        and row.get("precision") in precisions
        and row.get("mode") != "served"
        and "images_per_second" in row
    ]
    return max(found, default=None)


def _ratio(ours: float | None, peer: float | None) -> float | None:
    return round(ours / peer, 2) if ours and peer else None


def _work(result: Result, part: str) -> float | None:
    name = "giga_multiply_adds_per_image"
    return next((row[name] for row in _rows(result, part) if name in row), None)


def _rows(result: Result, part: str) -> list[Result]:
    rows: list[Result] = result["parts"].get(part, {}).get("rows", [])
    return rows


def line_of(name: str, part: Result) -> str:
    """One line for the console: how the part ended, and its errors."""
    errors = "".join(f"\n    {_label(row)}: {row['error']}" for row in part["rows"] if "error" in row)
    return f"{name:26} {part['status']}, {len(part['rows'])} rows in {part['seconds']} s{errors}"


def _label(row: Result) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items() if key != "error")
