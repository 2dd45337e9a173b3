"""The overload of docs/http-api.md in virtual time: 64 clients, 100 ms of work an image, 2 s of patience."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from hindsight.artifact import Artifact
from service import pipeline
from service.errors import Busy
from service.memory import ImageMemory
from service.pipeline import Services
from tests.unit.service.bench import Bench
from tests.unit.service.crowd import CAPACITY, CLIENTS, SECONDS, goodput
from tests.virtual_time import run, settle


def loaded(artifact: Artifact) -> Bench:
    bench = Bench(artifact, max_queue_seconds=1.0, max_batch=1)
    bench.engine.seconds_each = 1 / CAPACITY
    return bench


@pytest.mark.parametrize(("polite", "least"), [(False, 0.95), (True, 0.95)])
def test_overload_costs_next_to_nothing(tiny_artifact: Artifact, polite: bool, least: float) -> None:
    async def scenario() -> None:
        bench = loaded(tiny_artifact)
        rate, _ = await goodput(bench, polite=polite)
        assert rate >= least * CAPACITY
        assert len(bench.engine.calls) <= CAPACITY * SECONDS + 1
        await bench.batcher.stop()

    run(scenario())


def test_polite_clients_that_pause_all_get_their_share(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = loaded(tiny_artifact)
        rate, answered = await goodput(bench, polite=True, think=1.0)
        assert rate >= 0.9 * CAPACITY
        assert len(answered) == CLIENTS, "nobody is always refused"
        await bench.batcher.stop()

    run(scenario())


def test_nothing_is_left_of_forty_that_gave_up(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = loaded(tiny_artifact)
        await bench.submit(bench.work())
        tasks = []
        for _ in range(40):
            try:
                tasks.append(bench.submit(bench.work()))
            except Busy:
                break
        await asyncio.sleep(0.45)
        for task in tasks:
            task.cancel()
        await settle()
        before = bench.clock()
        await bench.submit(bench.work(7))
        assert bench.clock() - before <= 0.2 + 1e-6  # the rest of what runs, and its own
        await bench.batcher.stop()

    run(scenario())


def test_one_image_is_not_starved_by_another_clients_large_requests(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = loaded(tiny_artifact)

        async def greedy() -> None:
            while True:
                try:
                    await asyncio.gather(*bench.submit_many(range(64), client="greedy"))
                except Busy:
                    await asyncio.sleep(0.1)

        many = [asyncio.create_task(greedy()) for _ in range(4)]
        await asyncio.sleep(3)
        waits = []
        for client in ("single", "greedy") * 20:  # behind a proxy they may even look like one client
            start = bench.clock()
            await bench.submit(bench.work(), client=client)
            waits.append(bench.clock() - start)
            await asyncio.sleep(0.05)
        assert max(waits[::2]) <= 0.3 + 1e-6  # what runs, one turn of the other client, its own
        assert max(waits[1::2]) <= 0.6 + 1e-6  # what runs, one turn of each request, its own
        for task in many:
            task.cancel()
        await asyncio.gather(*many, return_exceptions=True)
        await bench.batcher.stop()

    run(scenario())


def test_a_request_of_many_does_not_fill_the_decoders(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, decode_threads=2)
        slots = bench.admit(64)
        pool = CountingPool()
        services = cast(Services, SimpleNamespace(pool=pool, metrics=bench.metrics))
        lease = ImageMemory(1).lease()
        await asyncio.gather(
            *(pipeline._prepare(services, b"", bench.artifact, slot, lease) for slot in slots)
        )
        assert pool.most == 2
        await bench.batcher.stop()

    run(scenario())


class CountingPool:
    """Stands in for CpuPool. most: images that it had at one time."""

    def __init__(self) -> None:
        self._now = self.most = 0

    async def prepare(self, *arguments: object) -> None:
        self._now += 1
        self.most = max(self.most, self._now)
        await asyncio.sleep(0.1)
        self._now -= 1
