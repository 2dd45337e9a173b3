"""What tiles are worth on images larger than the model's input: `pcb` on mosaics of 2000 x 2000 pixels.

    python -m benchmarks.tiling --data DEEPPCB --cache FOLDER

DEEPPCB: the folder of the data set, with trainval.json, test.json and images/. Rules and their constants are
chosen on mosaics of training boards; the figures are of test boards. Each window's pass is kept in --cache,
so that rules can be changed without running the model again; seconds are those of the run that filled it.
Writes benchmarks/results/tiling-pcb.json.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.tiling_figures import averages, cut_objects, integrity_report, operating_point
from benchmarks.tiling_mosaics import BOARD, SIDE, Mosaic, mosaics
from benchmarks.tiling_passes import NMS_THRESHOLD, Passes
from benchmarks.tiling_rules import RULES
from hindsight.api import Detector, load
from hindsight.commands.console import progress_console
from hindsight.detections import Detections
from hindsight.tiling import Tiling, pool
from training.machine import origin

RESULT = Path(__file__).resolve().parent / "results" / "tiling-pcb.json"
MODEL = "pcb"
WHOLE = np.array([[0, 0, SIDE, SIDE]], np.int64)
OVERLAPS = (0.0, 0.1, 0.2, 0.3)
EDGES = (0.003, 0.006, 0.01, 0.02, 0.03)
NONE, OURS, EVEN = "overlap 0", "overlap 0.2", "spread evenly, 4 x 4"
SHIPPED = "finest, whole first"
COMPARED = ("nms", "greedy merging", SHIPPED)


def tiles(overlap: float) -> NDArray[np.int64]:
    """As the library lays them: at a fixed step, the last ones moved inwards."""
    return Tiling(BOARD, overlap, whole=False).windows((SIDE, SIDE))


def spread(count: int) -> NDArray[np.int64]:
    """As many along a side, spread evenly: the least overlap is as large as their number allows."""
    starts = [round(place * (SIDE - BOARD) / (count - 1)) for place in range(count)]
    return np.array([(x, y, x + BOARD, y + BOARD) for y in starts for x in starts], np.int64)


def layouts() -> dict[str, NDArray[np.int64]]:
    """Name -> windows, without that of the whole image."""
    return {f"overlap {overlap:g}": tiles(overlap) for overlap in OVERLAPS} | {EVEN: spread(4)}


def answers(
    passes: Sequence[Passes],
    windows: NDArray[np.int64],
    rule: str,
    least_score: float,
    *,
    edge: float | None = None,
    threshold: float = NMS_THRESHOLD,
    second: bool = False,
) -> list[Detections]:
    """One for each mosaic."""
    merged = []
    for each in passes:
        ask = each.second if second else each.found
        found = [ask(window, least_score) for window in windows]
        pooled = (
            pool(found, windows, (SIDE, SIDE))
            if edge is None
            else pool(found, windows, (SIDE, SIDE), edge=edge)
        )
        merged.append(RULES[rule](pooled, threshold))
    return merged


def figures(
    given: Sequence[Mosaic], passes: Sequence[Passes], windows: NDArray[np.int64], rule: str, **options: Any
) -> dict[str, Any]:
    """AP and recall of everything found; and at the model's own score threshold."""
    every = averages(given, answers(passes, windows, rule, 0.0, **options))
    shown = operating_point(given, answers(passes, windows, rule, passes[0].least_score, **options))
    return every | {"at_default_threshold": shown}


def table(
    given: Sequence[Mosaic], passes: Sequence[Passes], chosen: dict[str, NDArray[np.int64]]
) -> dict[str, Any]:
    """By layout: its tiles, seconds, and the figures of rules, of all of them where all layouts are there."""
    rows: dict[str, Any] = {
        "single pass": {
            "passes": 1,
            "seconds": round(float(np.mean([each.seconds(WHOLE) for each in passes])), 3),
            "rules": {"none": figures(given, passes, WHOLE, "nms")},
        }
    }
    wanted = {name: (windows, COMPARED) for name, windows in chosen.items()}
    wanted[f"{OURS}, and whole"] = np.concatenate([chosen[OURS], WHOLE]), COMPARED
    if len(chosen) == len(layouts()):
        wanted[OURS] = chosen[OURS], tuple(RULES)
        wanted[f"{OURS}, and whole"] = np.concatenate([chosen[OURS], WHOLE]), tuple(RULES)
    for name, (windows, rules) in wanted.items():
        rows[name] = {
            "passes": len(windows),
            "seconds": round(float(np.mean([each.seconds(windows) for each in passes])), 3),
            "rules": {rule: figures(given, passes, windows, rule) for rule in rules},
        }
    return rows


def constants(given: Sequence[Mosaic], passes: Sequence[Passes]) -> dict[str, Any]:
    """The library's rule with other constants than its own."""
    windows = np.concatenate([layouts()[OURS], WHOLE])
    return {
        "edge": {f"{edge:g}": figures(given, passes, windows, SHIPPED, edge=edge) for edge in EDGES},
        "threshold": {
            f"{value:g}": figures(given, passes, windows, SHIPPED, threshold=value)
            for value in (0.3, 0.4, 0.5, 0.6, 0.7)
        },
    }


def second(given: Sequence[Mosaic], passes: Sequence[Passes]) -> dict[str, Any]:
    """Cut boxes judged by the tile that shows their place whole; for EVEN, beside its row."""
    windows = layouts()[EVEN]
    return {
        "seconds": round(float(np.mean([each.second_seconds for each in passes])), 3),
        "rules": {
            rule: figures(given, passes, windows, rule, second=True)
            for rule in ("nms", "nms, over the smaller", "whole first")
        },
    }


def integrity(given: Sequence[Mosaic], passes: Sequence[Passes]) -> dict[str, Any]:
    """What the model says of boxes on objects that a tile cuts."""
    windows = layouts()[NONE]
    rows = [
        row
        for mosaic, each in zip(given, passes, strict=True)
        for window in windows
        for row in cut_objects(mosaic, window, each.found(window, 0.05))
    ]
    return integrity_report(rows)


def merge_seconds(passes: Sequence[Passes]) -> float:
    """Of the library's rule, for all that the tiles of one image have found."""
    windows = np.concatenate([layouts()[OURS], WHOLE])
    start = time.perf_counter()
    answers(passes, windows, SHIPPED, 0.0)
    return round((time.perf_counter() - start) / len(passes), 4)


@dataclass(frozen=True)
class Kind:
    """A set of mosaics; aligned: see tiling_mosaics.mosaics."""

    name: str
    split: str
    count: int
    aligned: bool

    @property
    def layouts(self) -> dict[str, NDArray[np.int64]]:
        """Of aligned mosaics the two that differ most: tiles that end where boards do, and the library's."""
        every = layouts()
        return {name: every[name] for name in (NONE, OURS)} if self.aligned else every


def asked(detector: Detector, kind: Kind, data: Path, cache: Path) -> tuple[list[Mosaic], list[Passes]]:
    """The mosaics, and what the model says of all windows that are looked at."""
    given = list(mosaics(data / f"{kind.split}.json", kind.count, aligned=kind.aligned))
    label = f"{kind.split}-{'aligned' if kind.aligned else 'offset'}"
    passes = [
        Passes(detector, mosaic, cache / f"{label}-{number}.npz") for number, mosaic in enumerate(given)
    ]
    for each in track(passes, kind.name, console=progress_console()):
        each.fill(np.concatenate([*kind.layouts.values(), WHOLE]))
        if not kind.aligned:
            each.fill_second(layouts()[EVEN])
    return given, passes


def main(
    data: Annotated[Path, typer.Option(help="Folder of deeppcb: trainval.json, test.json, images/.")],
    cache: Annotated[Path, typer.Option(help="Folder for the windows' passes.")],
    choosing: Annotated[int, typer.Option(help="Mosaics of training boards.")] = 10,
    test: Annotated[int, typer.Option(help="Mosaics of test boards, of each kind.")] = 20,
    threads: Annotated[int, typer.Option(help="Of the model.")] = 1,
    only_choose: Annotated[bool, typer.Option(help="No test mosaics, no result file.")] = False,
    note: Annotated[str, typer.Option(help="What else the machine did, for the result file.")] = "",
) -> None:
    """Measure, print and write."""
    wanted = [Kind("choosing", "trainval", choosing, aligned=False)]
    if not only_choose:
        wanted += [
            Kind("test", "test", test, aligned=False),
            Kind("test, aligned", "test", test, aligned=True),
        ]
    load_before = os.getloadavg()[0]
    with load(MODEL, threads=threads) as detector:
        sets = {kind.name: asked(detector, kind, data, cache) for kind in wanted}
    result: dict[str, Any] = {
        "model": MODEL,
        "image": [SIDE, SIDE],
        "tile": BOARD,
        "mosaics": {name: len(given) for name, (given, _) in sets.items()},
        "objects": {
            name: int(sum((~mosaic.clipped).sum() for mosaic in given)) for name, (given, _) in sets.items()
        },
        "ignored_at_the_border": {
            name: int(sum(mosaic.clipped.sum() for mosaic in given)) for name, (given, _) in sets.items()
        },
        "shipped": {"layout": f"{OURS}, and whole", "rule": SHIPPED},
        "constants": constants(*sets["choosing"]),
        "tables": {kind.name: table(*sets[kind.name], kind.layouts) for kind in wanted},
        "second_opinion": {kind.name: second(*sets[kind.name]) for kind in wanted if not kind.aligned},
        "integrity": {name: integrity(given, passes) for name, (given, passes) in sets.items()},
        "merge_seconds": merge_seconds(sets["choosing"][1]),
        "threads": threads,
        "load_average": [load_before, os.getloadavg()[0]],
        "note": note,
        **origin("cpu", "onnxruntime", "numpy", "faster-coco-eval"),
    }
    text = json.dumps(result, indent=2) + "\n"
    if not only_choose:
        RESULT.write_text(text, encoding="utf-8")
    typer.echo(text)


if __name__ == "__main__":
    typer.run(main)
