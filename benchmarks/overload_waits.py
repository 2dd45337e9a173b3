"""How long may a request wait, before it is better refused? The table of docs/http-api.md, simulated.

    python -m benchmarks.overload_waits            simulates, and writes result and table
    python -m benchmarks.overload_waits --check    fails if the table is not what the result says

The queue and the batcher are the server's own, the clock is virtual: 64 clients of 2 s patience, 100 ms of
work an image, one image at a time. Writes benchmarks/results/overload-waits.json, the same on every machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.readme import RESULTS, ROOT, keep_page, table
from hindsight.artifact import Artifact
from service.worker_process import Call, Reply
from tests.factories import make_tiny_artifact
from tests.unit.service.bench import Bench, RecordingEngine
from tests.unit.service.crowd import CAPACITY, CLIENTS, PATIENCE, goodput
from tests.virtual_time import run

PAGE = ROOT / "docs" / "http-api.md"
BLOCK = "overload waits"
RESULT = RESULTS / "overload-waits.json"
WAITS = (0.3, 0.5, 1.0, 1.5, 1.8, 2.0, 4.0)
SECONDS = 60.0
VARIATION = 0.3  # of the time of an image, to either side
SLOW_EVERY, SLOWER = 10, 1.5


class UnevenEngine(RecordingEngine):
    """Takes about as long as it should."""

    def __init__(self) -> None:
        super().__init__()
        self._chance, self._count = random.Random(0), 0

    async def run(self, call: Call) -> Reply:
        self._count += 1
        slow = SLOWER if self._count % SLOW_EVERY == 0 else 1.0
        self.seconds_each = slow * self._chance.uniform(1 - VARIATION, 1 + VARIATION) / CAPACITY
        return await super().run(call)


def simulate() -> dict[str, Any]:
    """Goodput by limit of the wait, as a share of CAPACITY."""
    shares: dict[str, dict[str, float]] = {"at once": {}, "as Retry-After says": {}}
    with tempfile.TemporaryDirectory() as folder:
        artifact = make_tiny_artifact(Path(folder) / "tiny")
        for polite, (_, row) in enumerate(shares.items()):
            for wait in WAITS:
                row[f"{wait:g}"] = round(share_of(artifact, wait, polite=bool(polite)), 3)
        most = round(_patient(artifact), 3)
    return {
        "clients": CLIENTS,
        "patience_seconds": PATIENCE,
        "seconds": SECONDS,
        "goodput_by_longest_wait": shares,
        "most": most,
    }


def share_of(artifact: Artifact, wait: float, *, polite: bool) -> float:
    found: list[float] = []

    async def scenario() -> None:
        bench = Bench(artifact, engine=UnevenEngine(), max_queue_seconds=wait, max_batch=1)
        rate, _ = await goodput(bench, polite=polite, seconds=SECONDS)
        found.append(rate / CAPACITY)
        await bench.batcher.stop()

    run(scenario())
    return found[0]


def _patient(artifact: Artifact) -> float:
    """All there is: somebody always waits, and nobody leaves."""
    found: list[float] = []

    async def scenario() -> None:
        bench = Bench(artifact, engine=UnevenEngine(), max_batch=1)
        tasks = [bench.submit(bench.work(), seconds=1000) for _ in range(8)]
        done = 0
        while asyncio.get_running_loop().time() < SECONDS:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            done += sum(task.done() for task in tasks)
            tasks = [bench.submit(bench.work(), seconds=1000) if task.done() else task for task in tasks]
        found.append(done / SECONDS / CAPACITY)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await bench.batcher.stop()

    run(scenario())
    return found[0]


def blocks() -> dict[str, str]:
    """For keep_page."""
    return {BLOCK: block(json.loads(RESULT.read_text(encoding="utf-8")))}


def block(result: dict[str, Any]) -> str:
    """The table, in per cent."""
    rows = result["goodput_by_longest_wait"]
    waits = list(next(iter(rows.values())))
    lines = [
        [f"clients that come back {name}", *(f"{100 * row[wait]:.0f}" for wait in waits)]
        for name, row in rows.items()
    ]
    shown = table(["wait of at most", *(f"{wait} s" for wait in waits)], lines)
    return f"{shown}\n\n{100 * result['most']:.0f} is all there is (`python -m benchmarks.overload_waits`)."


def main() -> int:
    arguments = sys.argv[1:]
    if "--check" not in arguments:
        RESULT.write_text(json.dumps(simulate(), indent=2) + "\n", encoding="utf-8")
    return keep_page(PAGE, blocks, "python -m benchmarks.overload_waits", arguments)


if __name__ == "__main__":
    sys.exit(main())
