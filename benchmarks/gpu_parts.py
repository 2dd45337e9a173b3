"""The parts of benchmarks/gpu.py. Each runs in a process of its own and writes every row once it has it.

A part that hangs, crashes the GPU's context or runs out of its time loses what it had not measured yet, and
nothing of the others.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_clock import Clock, copy_bandwidth
from benchmarks.gpu_measure import (
    Row,
    captured,
    host_syncs,
    peak_megabytes,
    product_ceiling,
    time_calls,
    time_pipeline,
    top_kernels,
)
from benchmarks.gpu_systems import (
    Scale,
    System,
    configs,
    giga_multiply_adds,
    lively,
    our_detector,
    our_system,
    torchvision_system,
    with_looks,
)
from export.torch_options import Precision
from model.detector import TwoStageDetector

LOOKS = 256  # D: how many boxes the DIR head reads unless told otherwise


class Rows:
    """The rows of a part, on disk after each. Errors are rows too: what failed, by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Append and write, atomically."""
        self._rows.append(row)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self._rows), encoding="utf-8")
        os.replace(draft, self.path)

    def measured(self, name: Row, measure: Callable[[], Row]) -> None:
        """Add what `measure` gives to `name`, or why it failed."""
        try:
            self.add(name | measure())
        except (
            Exception
        ) as error:  # whatever a compiler, a driver or a capture may raise: the next row counts
            self.add(name | {"error": _one_line(error)})
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]


def ceiling(scale: Scale, rows: Rows) -> None:
    """What the card can do at most: matrix products, and the bandwidth of a copy."""
    for row in product_ceiling(scale.device, scale.product, scale.seconds):
        rows.add(row)
    if scale.device != "cpu":
        rows.measured(
            {"name": "copy"},
            lambda: {"gigabytes_per_second": round(copy_bandwidth(Clock(10)) / 1e9, 1)},
        )


def torchvision(scale: Scale, rows: Rows) -> None:
    """The peer: fasterrcnn_resnet50_fpn, eager, in float32 and under autocast; at the batch that is compared
    with channels-last weights too, so that its better one is what we are held against.
    """
    for batch in _middle_first(scale):
        for mode in ("eager", "channels-last") if batch == scale.middle else ("eager",):
            for precision in ("fp32", *scale.precisions):
                name = {"mode": mode, "precision": precision, "batch": batch}
                rows.measured(name, lambda n=name: _whole(_peer(scale, n), scale, n))  # type: ignore[misc]


def torchvision_compiled(scale: Scale, rows: Rows) -> None:
    """The peer through torch.compile, at the batch that is compared."""
    for precision in (scale.precisions[0], "fp32"):
        name = {"mode": "compiled", "precision": precision, "batch": scale.middle}
        rows.measured(name, lambda n=name: _compiled(scale, n))  # type: ignore[misc]


def _peer(scale: Scale, name: Row) -> System:
    mode = name["mode"]
    layout = torch.channels_last if mode == "channels-last" else torch.contiguous_format
    return torchvision_system(scale, name["batch"], name["precision"], layout, compiled=mode == "compiled")


def _compiled(scale: Scale, name: Row) -> Row:
    from torch._dynamo.utils import counters

    found = _whole(_peer(scale, name), scale, name)
    return found | {"graph_breaks": sum(counters["graph_break"].values())}


def of_ours(key: str) -> Callable[[Scale, Rows], None]:
    """The part that measures one of `configs`: eager, and as a CUDA graph."""

    def part(scale: Scale, rows: Rows) -> None:
        config = configs(scale)[key]
        work = giga_multiply_adds(config, scale)
        rows.add({"giga_multiply_adds_per_image": round(work, 2)})
        detector = our_detector(config, scale)
        for batch in _middle_first(scale):
            for precision in scale.precisions:
                _both_modes(detector, scale, rows, {"precision": precision, "batch": batch})

    part.__doc__ = f"Ours: {key}."
    return part


def _both_modes(detector: TwoStageDetector, scale: Scale, rows: Rows, name: Row) -> None:
    system = our_system(detector, scale, name["batch"], name["precision"])
    rows.measured({"mode": "eager"} | name, lambda: _whole(system, scale, name))
    if scale.device != "cpu":
        rows.measured({"mode": "graph"} | name, lambda: _replayed(system, scale, name["batch"]))
        rows.measured({"mode": "served"} | name, lambda: _served(system, scale, name["batch"]))


def _whole(system: System, scale: Scale, name: Row) -> Row:
    """Everything about one call; kernels and memory at the batch that is compared."""
    device, batch = scale.device, name["batch"]
    found = time_calls(system.call, device, batch, scale.seconds)
    found["detections_per_image"] = system.found(system.call())
    found["host_syncs"] = host_syncs(system.call, device)
    found["peak_megabytes"] = peak_megabytes(system.call, device)
    if batch == scale.middle:
        found["top_kernels"] = top_kernels(system.call, device)
    return found


def _replayed(system: System, scale: Scale, batch: int) -> Row:
    """As a CUDA graph: one launch, and by construction no synchronisation in it."""
    replay, _ = captured(system.call)
    found = time_calls(replay, scale.device, batch, scale.seconds)
    return found | {"peak_megabytes": peak_megabytes(replay, scale.device)}


def _served(system: System, scale: Scale, batch: int) -> Row:
    """From host memory to host memory through the runtime's staging, its one wait for the GPU counted."""
    submit = system.serve
    assert submit is not None
    timed = time_pipeline(submit, scale.device, batch, scale.seconds)
    inside = host_syncs(lambda: submit().result(), scale.device)
    return timed | {"host_syncs": None if inside is None else inside + 1}


def ours_compiled(scale: Scale, rows: Rows) -> None:
    """Ours with the runtime's option `compile`, at the batch that is compared."""
    precision, batch = scale.precisions[0], scale.middle
    for key in ("baseline", "decoupled cascade + DIR"):
        name = {"system": key, "mode": "compiled", "precision": precision, "batch": batch}
        rows.measured(name, lambda k=key: _compiled_ours(k, scale))  # type: ignore[misc]


def _compiled_ours(key: str, scale: Scale) -> Row:
    detector = our_detector(configs(scale)[key], scale)
    # The toy only shows that the part works: compiling for a CPU would take minutes.
    compiled = scale.device != "cpu"
    system = our_system(detector, scale, scale.middle, scale.precisions[0], compiled=compiled)
    if scale.device == "cpu":
        return time_calls(system.call, scale.device, scale.middle, scale.seconds)
    return _replayed(system, scale, scale.middle)


def dir_cost(scale: Scale, rows: Rows) -> None:
    """The DIR head's share of the time, at D boxes and at all of them, at the batch that is compared.

    The decoupled cascade with the head refines D boxes where the plain one refines all: there the difference
    is not the head's alone.
    """
    precision, batch = scale.precisions[0], scale.middle
    own = configs(scale)
    for host in ("baseline", "decoupled cascade"):
        looked = own[f"{host} + DIR"]
        plans = {
            "host": own[host],
            f"D = {LOOKS}": with_looks(looked, LOOKS),
            "D = all": with_looks(looked, scale.proposals),
        }
        for label, config in plans.items():
            name = {"host": host, "looks": label, "precision": precision, "batch": batch}
            rows.measured(name, lambda c=config: _fastest(lively(c), scale, precision, batch))  # type: ignore[misc]


def _fastest(detector: TwoStageDetector, scale: Scale, precision: Precision, batch: int) -> Row:
    """As a CUDA graph where there is a GPU: launches from Python would hide what a small head costs."""
    system = our_system(detector, scale, batch, precision)
    if scale.device == "cpu":
        return {"mode": "eager"} | time_calls(system.call, scale.device, batch, scale.seconds)
    replay, _ = captured(system.call)
    return {"mode": "graph"} | time_calls(replay, scale.device, batch, 2 * scale.seconds)


def _middle_first(scale: Scale) -> list[int]:
    """The batch that is compared comes first: time may run out."""
    return [scale.middle, *(batch for batch in scale.batches if batch != scale.middle)]


# In the order in which they run, what the goals speak of first; seconds each may take on a GPU, 520 in all.
PARTS: dict[str, tuple[int, Callable[[Scale, Rows], None]]] = {
    "ceiling": (25, ceiling),
    "torchvision": (60, torchvision),
    "baseline": (65, of_ours("baseline")),
    "dir cost": (60, dir_cost),
    "decoupled cascade + DIR": (65, of_ours("decoupled cascade + DIR")),
    "decoupled cascade": (65, of_ours("decoupled cascade")),
    "torchvision compiled": (90, torchvision_compiled),
    "ours compiled": (90, ours_compiled),
}


def run_part(name: str, scale: Scale, path: Path) -> dict[str, Any]:
    """Run one part in this process; rows go to `path`."""
    _, part = PARTS[name]
    rows = Rows(path)
    part(scale, rows)
    return {"part": name}
