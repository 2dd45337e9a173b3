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
from benchmarks.tiling_rules import RULES
from benchmarks.tiling_second import second_opinions
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


def _key(window: NDArray[np.int64]) -> str:
    return "-".join(str(value) for value in window.tolist())


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
            self._save()

    def _save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("wb") as stream:
            np.savez(stream, **self._known)  # type: ignore[arg-type]

    def found(self, window: NDArray[np.int64], least_score: float = 0.0) -> Detections:
        """What the window's pass has found, of at least this score."""
        return self._stored(_key(window), window, least_score)

    def _stored(self, key: str, window: NDArray[np.int64], least_score: float) -> Detections:
        columns = [self._known[f"{key}/{name}"] for name in _COLUMNS]
        size = (int(window[3] - window[1]), int(window[2] - window[0]))
        every = Detections(*columns, self._detector.classes, size)
        return every.select(every.scores >= least_score)

    def fill_second(self, windows: NDArray[np.int64]) -> None:
        """Ask, once, for the second opinions of tiles on each other's cut boxes."""
        if f"{_key(windows[0])}/second/scores" in self._known:
            return
        start = time.perf_counter()
        changed = second_opinions(
            self._detector, self._mosaic, windows, [self.found(window) for window in windows]
        )
        self._known["second/seconds"] = np.array(time.perf_counter() - start)
        for window, each in zip(windows, changed, strict=True):
            for name in _COLUMNS:
                self._known[f"{_key(window)}/second/{name}"] = getattr(each, name)
        self._save()

    def second(self, window: NDArray[np.int64], least_score: float = 0.0) -> Detections:
        """`found`, but with the second opinions."""
        return self._stored(f"{_key(window)}/second", window, least_score)

    @property
    def second_seconds(self) -> float:
        return float(self._known["second/seconds"])

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
