"""The long fuzz run: thousands of mutated images and bodies against a live server, with its memory watched.

    python -m benchmarks.fuzz_server --cases 20000 --seed 1

Starts a server of its own on 127.0.0.1 (a runtime that only waits), prints the seed, and writes
benchmarks/results/fuzz-server.json. A request that fails is stored, and sent again with `--first CASE
--cases 1`. Exit code 1 where a case failed, the worker died, or memory grew by 50 MB.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.factories import make_tiny_artifact
from tests.hostile.fuzzing import fuzz
from tests.hostile.vitals import assert_unharmed, vitals_of
from tests.server_process import TILES, serving
from training.machine import origin

RESULTS = Path(__file__).resolve().parent / "results"
MOST_GROWTH = 50_000_000
PACKAGES = ("fastapi", "httptools", "numpy", "pillow", "python-multipart", "starlette", "uvicorn", "uvloop")


def main(
    cases: Annotated[int, typer.Option(help="Requests to send.", min=1, max=1_000_000)] = 20_000,
    seed: Annotated[int, typer.Option(help="The same seed sends the same bytes.")] = 1,
    first: Annotated[int, typer.Option(help="Number of the first case.", min=0)] = 0,
    output: Annotated[Path | None, typer.Option(help="The JSON file; a partial run writes none.")] = None,
) -> None:
    failed = Path(tempfile.gettempdir()) / "hindsight-fuzz"
    typer.echo(f"seed {seed}, cases {first} to {first + cases - 1}; requests that fail go to {failed}")
    with tempfile.TemporaryDirectory() as folder:
        model = make_tiny_artifact(Path(folder) / "tiny").path
        with serving(Path(folder) / "server", "--model", str(model), "--backend", "sleep:1") as server:
            server.client.post("/detect", content=TILES).raise_for_status()
            server.client.close()
            before = vitals_of(server)
            start = time.monotonic()
            report = fuzz(server, seed, range(first, first + cases), failed)
            seconds = time.monotonic() - start
            assert_unharmed(server, before)
            errors = [record for record in server.log() if record["level"] == "error"]
    result = {
        **report.to_json(),
        "seconds": round(seconds, 1),
        "errors_in_the_log": len(errors),
        "first_errors": errors[:5],
        **origin("cpu", *PACKAGES),
    }
    text = json.dumps(result, indent=2) + "\n"
    typer.echo(text)
    if output is None and first == 0:
        output = RESULTS / "fuzz-server.json"
    if output is not None:
        output.write_text(text, encoding="utf-8")
    growth = report.memory_after - report.memory_before
    if report.failures or errors or growth >= MOST_GROWTH:
        sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
