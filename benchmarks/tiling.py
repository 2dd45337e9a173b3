"""What tiles are worth on images larger than the model's input: `pcb` on mosaics of 2000 x 2000 pixels.

    python benchmarks/tiling.py --data DEEPPCB

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
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.progress import track

from benchmarks.tiling_figures import averages, cut_objects, integrity_report, operating_point
from benchmarks.tiling_mosaics import BOARD, SIDE, Mosaic, mosaics
from benchmarks.tiling_rules import RULES
from hindsight.api import Detector, load
from hindsight.commands.console import progress_console
from hindsight.detections import Detections
from hindsight.tiling import Tiling, crop, pool
from training.machine import origin

RESULT = Path(__file__).resolve().parent / "results" / "tiling-pcb.json"
MODEL = "pcb"
NMS_THRESHOLD = 0.5
_EVERYTHING = {"class_threshold": 0.05, "score_threshold": 0.0, "nms_threshold": NMS_THRESHOLD}
_COLUMNS = ("boxes", "labels", "scores", "class_scores", "ious", "purities", "integrities")
WHOLE = np.array([[0, 0, SIDE, SIDE]], np.int64)
OVERLAPS = (0.0, 0.1, 0.2, 0.3)
EDGES = (0.003, 0.006, 0.01, 0.02, 0.03)
SHIPPED = "edges dropped, whole first"


def flush(overlap: float) -> NDArray[np.int64]:
    """Tiles as slicing tools lay them: at a fixed step, the last ones moved inwards."""
    step = BOARD - round(BOARD * overlap)
    starts = [*range(0, SIDE - BOARD, step), SIDE - BOARD]
    return np.array([(x, y, x + BOARD, y + BOARD) for y in starts for x in starts], np.int64)


def layouts() -> dict[str, NDArray[np.int64]]:
    """Name -> windows, without that of the whole image."""
    fixed = {f"fixed step, overlap {overlap:g}": flush(overlap) for overlap in OVERLAPS}
    return fixed | {"even, overlap 0.2": Tiling(BOARD, 0.2, whole=False).windows((SIDE, SIDE))}


class Passes:
    """What the model says of each window of one mosaic, asked once and kept in a file."""

    def __init__(self, detector: Detector, mosaic: Mosaic, file: Path) -> None:
        self.least_score = detector.artifact.manifest.defaults.score_threshold
        self._detector, self._mosaic, self._file = detector, mosaic, file
        self._known: dict[str, NDArray[Any]] = {}
        if file.exists():
            with np.load(file, allow_pickle=False) as stored:
                self._known = {name: stored[name] for name in stored.files}

    def fill(self, windows: NDArray[np.int64]) -> None:
        """Ask for those that are not there yet."""
        missing = [window for window in windows if f"{_key(window)}/seconds" not in self._known]
        for window in missing:
            pixels = crop(self._mosaic.pixels, window)
            start = time.perf_counter()
            found = self._detector.detect(pixels, **_EVERYTHING)
            self._known[f"{_key(window)}/seconds"] = np.array(time.perf_counter() - start)
            for name in _COLUMNS:
                self._known[f"{_key(window)}/{name}"] = getattr(found, name)
        if missing:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("wb") as stream:
                np.savez(stream, **self._known)

    def found(self, window: NDArray[np.int64], least_score: float = 0.0) -> Detections:
        columns = [self._known[f"{_key(window)}/{name}"] for name in _COLUMNS]
        size = (int(window[3] - window[1]), int(window[2] - window[0]))
        every = Detections(*columns, self._detector.classes, size)
        return every.select(every.scores >= least_score)

    def seconds(self, windows: NDArray[np.int64]) -> float:
        return sum(float(self._known[f"{_key(window)}/seconds"]) for window in windows)


def answers(
    passes: Sequence[Passes],
    windows: NDArray[np.int64],
    rule: str,
    least_score: float,
    *,
    edge: float | None = None,
    threshold: float = NMS_THRESHOLD,
) -> list[Detections]:
    """One for each mosaic."""
    merged = []
    for each in passes:
        found = [each.found(window, least_score) for window in windows]
        pooled = (
            pool(found, windows, (SIDE, SIDE))
            if edge is None
            else pool(found, windows, (SIDE, SIDE), edge=edge)
        )
        merged.append(RULES[rule](pooled, threshold))
    return merged


def figures(
    given: Sequence[Mosaic], passes: Sequence[Passes], windows: NDArray[np.int64], rule: str, **options: float
) -> dict[str, Any]:
    """AP and recall of everything found; and at the model's own score threshold."""
    every = averages(given, answers(passes, windows, rule, 0.0, **options))
    shown = operating_point(given, answers(passes, windows, rule, passes[0].least_score, **options))
    return every | {"at_default_threshold": shown}


def table(
    given: Sequence[Mosaic], passes: Sequence[Passes], chosen: dict[str, NDArray[np.int64]]
) -> dict[str, Any]:
    """By layout: its tiles, seconds, and the figures of each rule, without the whole image and with it."""
    rows: dict[str, Any] = {
        "single pass": {
            "passes": 1,
            "seconds": round(float(np.mean([each.seconds(WHOLE) for each in passes])), 3),
            "rules": {"none": figures(given, passes, WHOLE, "nms")},
        }
    }
    for name, windows in chosen.items():
        for suffix, every in (("", windows), (", and whole", np.concatenate([windows, WHOLE]))):
            rows[name + suffix] = {
                "passes": len(every),
                "seconds": round(float(np.mean([each.seconds(every) for each in passes])), 3),
                "rules": {rule: figures(given, passes, every, rule) for rule in RULES},
            }
    return rows


def constants(given: Sequence[Mosaic], passes: Sequence[Passes]) -> dict[str, Any]:
    """The library's rule with other constants than its own."""
    windows = np.concatenate([layouts()["even, overlap 0.2"], WHOLE])
    return {
        "edge": {f"{edge:g}": figures(given, passes, windows, SHIPPED, edge=edge) for edge in EDGES},
        "threshold": {
            f"{value:g}": figures(given, passes, windows, SHIPPED, threshold=value)
            for value in (0.3, 0.4, 0.5, 0.6, 0.7)
        },
    }


def integrity(given: Sequence[Mosaic], passes: Sequence[Passes]) -> dict[str, Any]:
    """What the model says of boxes on objects that a tile cuts."""
    windows = layouts()["fixed step, overlap 0"]
    rows = [
        row
        for mosaic, each in zip(given, passes, strict=True)
        for window in windows
        for row in cut_objects(mosaic, window, each.found(window, 0.05))
    ]
    return integrity_report(rows)


def merge_seconds(passes: Sequence[Passes]) -> float:
    """Of the library's rule, for one image, at the model's own score threshold."""
    windows = np.concatenate([layouts()["even, overlap 0.2"], WHOLE])
    start = time.perf_counter()
    answers(passes, windows, SHIPPED, 0.0)
    return round((time.perf_counter() - start) / len(passes), 4)


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
    sets: dict[str, tuple[list[Mosaic], list[Passes]]] = {}
    wanted = [("choosing", "trainval", choosing, False)]
    if not only_choose:
        wanted += [("test", "test", test, False), ("test, aligned", "test", test, True)]
    every = np.concatenate([*layouts().values(), WHOLE])
    load_before = os.getloadavg()[0]
    with load(MODEL, threads=threads) as detector:
        for name, split, count, aligned in wanted:
            given = list(mosaics(data / f"{split}.json", count, aligned=aligned))
            label = f"{split}-{'aligned' if aligned else 'offset'}"
            passes = [
                Passes(detector, mosaic, cache / f"{label}-{number}.npz")
                for number, mosaic in enumerate(given)
            ]
            for each in track(passes, name, console=progress_console()):
                each.fill(every)
            sets[name] = given, passes
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
        "shipped": {"layout": "even, overlap 0.2, and whole", "rule": SHIPPED},
        "constants": constants(*sets["choosing"]),
        "tables": {name: table(given, passes, layouts()) for name, (given, passes) in sets.items()},
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
