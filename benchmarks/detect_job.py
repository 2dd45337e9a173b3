"""How many images a second `hindsight detect --out` does, by the number of workers, beside a loop over the
library, which is what people would write otherwise. Needs a quiet machine.

    python -m benchmarks.detect_job --images 400 --out benchmarks/results/detect-job.json

Each way is a whole run, so start-up, journal and results are in it. Every run must find the same boxes, or
there is no figure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from hindsight.artifact import find_artifact
from hindsight.jobs.cores import usable_cores
from hindsight.version import __version__
from training.machine import commit, processor

ROOT = Path(__file__).parents[1]
_LOOP = """
import sys, pathlib, hindsight
with hindsight.load(sys.argv[1]) as detector:
    print(sum(len(detector.detect(path)) for path in sorted(pathlib.Path(sys.argv[2]).iterdir())))
"""


def main(
    model: Annotated[str, typer.Option(help="Its samples are the images.")] = "cells",
    images: Annotated[int, typer.Option(help="So many copies.")] = 400,
    out: Annotated[Path | None, typer.Option(help="JSON; stdout otherwise.")] = None,
) -> None:
    """Measure, and check that all ways agree."""
    samples = find_artifact(model).samples
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = folder / "photos"
        photos.mkdir()
        for number in range(images):
            sample = samples[number % len(samples)]
            shutil.copyfile(sample, photos / f"{number:06}{sample.suffix}")
        seconds, boxes = _loop(model, photos)
        rows.append({"way": "loop over Detector.detect", "workers": None, "seconds": seconds, "boxes": boxes})
        for workers in sorted({1, 2, usable_cores() // 2 or 1, usable_cores()}):
            seconds, boxes = _job(model, photos, folder / f"out{workers}", workers)
            rows.append(
                {"way": "hindsight detect --out", "workers": workers, "seconds": seconds, "boxes": boxes}
            )
    if len({row["boxes"] for row in rows}) != 1:
        raise SystemExit(f"the ways disagree on how many boxes there are: {rows}")
    for row in rows:
        row["seconds"] = round(row["seconds"], 2)
        row["images_per_second"] = round(images / row["seconds"], 2)
    result = {
        "model": model,
        "images": images,
        "hindsight": __version__,
        "commit": commit(ROOT),
        "processor": processor(),
        "cores": usable_cores(),
        "rows": rows,
    }
    text = json.dumps(result, indent=2) + "\n"
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text)


def _loop(model: str, photos: Path) -> tuple[float, int]:
    begun = time.perf_counter()
    done = _run("-c", _LOOP, model, str(photos))
    return time.perf_counter() - begun, int(done)


def _job(model: str, photos: Path, out: Path, workers: int) -> tuple[float, int]:
    begun = time.perf_counter()
    _run(
        "-m",
        "hindsight",
        "detect",
        str(photos),
        "--model",
        model,
        "--out",
        str(out),
        "--workers",
        str(workers),
    )
    seconds = time.perf_counter() - begun
    return seconds, len(json.loads((out / "detections.json").read_text())["annotations"])


def _run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"no figures, because a run failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    typer.run(main)
