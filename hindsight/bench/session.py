"""What runs one after the other against a server, and is kept even when it is interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any

from hindsight.bench.load import Load, Run
from hindsight.bench.requests import Source
from hindsight.bench.samples import Sample, Summary, summarise
from hindsight.bench.wire import Address

__all__ = ["Interrupted", "Measured", "Session"]


class Interrupted(Exception):
    """The user wants no more."""


@dataclass(frozen=True)
class Measured:
    """One load and what came of it. `facts`: what a preset wants to say of it; `judged`: limits such as
    --max-p99 are for this one.
    """

    name: str
    load: Load
    summary: Summary
    samples: list[Sample]
    reconnects: int
    cpu_share: float
    judged: bool = False
    facts: dict[str, float] = field(default_factory=dict)

    @property
    def counted(self) -> list[Sample]:
        """Those that were meant to be sent within the measurement."""
        return [sample for sample in self.samples if 0 <= sample.intended < self.summary.seconds]

    def to_json(self) -> dict[str, Any]:
        shape = {"kind": type(self.load.shape).__name__.lower(), **asdict(self.load.shape)}
        return {
            "name": self.name,
            "load": {**asdict(self.load), "shape": shape},
            "judged": self.judged,
            **self.summary.to_json(),
            "reconnects": self.reconnects,
            "client_cpu_share": round(self.cpu_share, 3),
            "facts": {
                name: round(value, 4) if isfinite(value) else None for name, value in self.facts.items()
            },
        }


class Session:
    """The runs of one bench. `current`: (name, run) of those under way, for who watches."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.measured: list[Measured] = []
        self.current: list[tuple[str, Run]] = []
        self._interrupted = False

    def interrupt(self) -> None:
        """End what runs, at once: what is in flight is not waited for; what was measured so far is kept."""
        self._interrupted = True
        for _, run in self.current:
            run.stop()

    async def measure(
        self, name: str, load: Load, source: Source, *, judged: bool = False, keep: bool = True
    ) -> Measured:
        """Run one load. Raises Interrupted when the user has had enough, after keeping what there is."""
        [measured] = await self.measure_together([(name, load, source, judged)], keep=keep)
        return measured

    async def measure_together(
        self, loads: Iterable[tuple[str, Load, Source, bool]], *, keep: bool = True
    ) -> list[Measured]:
        """Run several loads at once; the first decides when all end."""
        if self._interrupted:
            raise Interrupted
        planned = [(name, judged, Run(self.address, source, load)) for name, load, source, judged in loads]
        self.current = [(name, run) for name, _, run in planned]
        tasks = [asyncio.create_task(run.run(), name=name) for name, run in self.current]
        try:
            await self._until_done(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.current = []
        measured = [
            Measured(
                name,
                run.load,
                summarise(run.recorder.samples, run.seconds),
                run.recorder.samples,
                run.reconnects,
                run.cpu_share,
                judged,
            )
            for name, judged, run in planned
        ]
        if keep:
            self.measured += measured
        if self._interrupted:
            raise Interrupted
        return measured

    async def _until_done(self, tasks: list[asyncio.Task[None]]) -> None:
        while not tasks[0].done() and not self._interrupted:
            await asyncio.wait({tasks[0]}, timeout=0.1)
        if self._interrupted:
            return
        for _, run in self.current[1:]:
            run.stop()
        pending = set(tasks)
        while pending and not self._interrupted:
            _, pending = await asyncio.wait(pending, timeout=0.1)
        for task in tasks:
            if task.done():
                task.result()
