"""Does the time that a wrong API key takes tell anything? Keys that are wrong in different ways, in turns.

    python -m benchmarks.key_timing --rounds 4000

Looks keys up in a ring of 50, in this process, where nothing blurs the clock; over a network there is only
more noise. Each kind is compared with keys that are wrong from the first character: the difference of the
medians with its 99 % bootstrap interval, in nanoseconds. Writes benchmarks/results/key-timing.json.
"""

from __future__ import annotations

import os
import random
import secrets
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from benchmarks.turns import RESULTS, facts, write
from service.errors import KeyRequired
from service.keyring import KeyRing
from service.keys import create_key
from service.metrics import Metrics

KEYS = 50
BASE = "wrong from the first character"
_PER_TURN = 20  # look-ups of one kind in a row, of which the quickest counts: interruptions drop out


def main(
    rounds: Annotated[int, typer.Option(min=100)] = 4000,
    out: Annotated[Path, typer.Option(help="Where the result goes.")] = RESULTS / "key-timing.json",
) -> None:
    """Measure and write."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "keys.jsonl"
        keys = [create_key(file, f"key-{number}", "user") for number in range(KEYS)]
        ring = KeyRing(file, Metrics())
    first, last = keys[0], keys[-1]
    # How many characters of which key are right; what follows is random, so a right key never comes.
    kinds = {
        BASE: (first, 0),
        "half of the first key right": (first, len(first) // 2),
        "all of the first key but its end": (first, len(first) - 4),
        "all of the last key but its end": (last, len(last) - 4),
    }
    nanoseconds = measure(ring, kinds, rounds)
    rows = {}
    for kind, own in nanoseconds.items():
        low, high = interval(own, nanoseconds[BASE])
        rows[kind] = {
            "median_ns": round(float(np.median(own))),
            "longer_than_base_ns": round(float(np.median(own) - np.median(nanoseconds[BASE])), 1),
            "interval_99_ns": [round(low, 1), round(high, 1)],
        }
        typer.echo(f"{kind:40} {rows[kind]}")
    write(out, {"keys": KEYS, "rounds": rounds, "kinds": rows, **facts(("numpy",), load)})


def measure(ring: KeyRing, kinds: dict[str, tuple[str, int]], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Nanoseconds of one look-up, a figure a round and kind; the kinds in an order drawn anew each round."""
    order, rng = list(kinds), random.Random(0)
    found: dict[str, list[int]] = {kind: [] for kind in order}
    for _ in range(rounds):
        rng.shuffle(order)
        # All made alike, and before the clock runs: what is measured must differ in its characters alone.
        presented = {kind: [_partly_right(*kinds[kind]) for _ in range(_PER_TURN)] for kind in order}
        for kind in order:
            found[kind].append(min(_nanoseconds(ring, key) for key in presented[kind]))
    return {kind: np.array(each, np.float64) for kind, each in found.items()}


def interval(own: NDArray[np.float64], base: NDArray[np.float64], draws: int = 2000) -> tuple[float, float]:
    """99 % bootstrap interval of the difference of the medians; rounds are drawn as pairs."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(own), (draws, len(own)))
    differences = np.median(own[chosen], axis=1) - np.median(base[chosen], axis=1)
    low, high = np.quantile(differences, [0.005, 0.995])
    return float(low), float(high)


def _partly_right(key: str, right: int) -> str:
    return key[:right] + secrets.token_urlsafe(len(key))[: len(key) - right]


def _nanoseconds(ring: KeyRing, key: str) -> int:
    start = time.perf_counter_ns()
    try:
        ring.find(key)
    except KeyRequired:
        return time.perf_counter_ns() - start
    raise AssertionError("a wrong key was found")


if __name__ == "__main__":
    typer.run(main)
