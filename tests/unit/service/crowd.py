"""The overload of docs/http-api.md in virtual time: clients that have little patience, and come back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

from service.errors import Busy, whole_seconds
from tests.unit.service.bench import Bench

CLIENTS, PATIENCE, SECONDS = 64, 2.0, 20.0
CAPACITY = 10.0  # images a second


async def goodput(
    bench: Bench, *, polite: bool, think: float = 0.0, seconds: float = SECONDS
) -> tuple[float, Counter[int]]:
    """-> answers a second to clients that were still there, and how many each client got."""
    answered: Counter[int] = Counter()
    chance = random.Random(0)

    async def client(number: int) -> None:
        while True:
            try:
                async with asyncio.timeout(PATIENCE):
                    [slot] = bench.admit(client="proxy", seconds=30)
                    await bench.batcher.submit(bench.work(), slot)
                answered[number] += 1
                await asyncio.sleep(chance.uniform(0, 2 * think))
            except Busy as refused:
                assert refused.retry_after is not None
                await asyncio.sleep(refused.hold)
                await asyncio.sleep(whole_seconds(refused.retry_after) if polite else 0.05)
            except TimeoutError:
                pass

    clients = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    await asyncio.sleep(seconds)
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return answered.total() / seconds, answered
