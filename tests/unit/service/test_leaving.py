"""Clients that leave while their refusal is held back, and memory that is still in use when they do."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import numpy as np
import pytest
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from hindsight.manifest import ResizeRule
from hindsight.preprocess import ImageLimits
from service import decode
from service.decode import CpuPool
from service.errors import Busy
from service.handlers import _hindsight_error
from service.kserve.rest import _Route
from service.memory import ImageMemory
from service.metrics import Metrics
from tests import virtual_time
from tests.factories import encode, tiles_image

RULE = ResizeRule(96, 160)
FAR = 10.0**9


def request_of(leaves_after: float) -> Request:
    async def receive() -> dict[str, Any]:
        await asyncio.sleep(leaves_after)
        return {"type": "http.disconnect"}

    scope = {"type": "http", "state": {"request_id": "id"}, "headers": []}
    return Request(scope, receive)


@pytest.mark.parametrize(("leaves_after", "ends_after"), [(0.2, 0.2), (100.0, 0.7)])
def test_a_refusal_is_held_back_as_long_as_somebody_waits_for_it(
    leaves_after: float, ends_after: float
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        response = await _hindsight_error(request_of(leaves_after), Busy("x", retry_after=3.0, hold=0.7))
        assert loop.time() == pytest.approx(ends_after)
        assert response.status_code == 503 and response.headers["retry-after"] == "3"
        assert json.loads(bytes(response.body))["retry_after_ms"] == 3000

    virtual_time.run(scenario())


def test_kserves_refusals_are_held_back_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry-After is counted from the moment of the answer, whichever protocol the client speaks."""

    async def busy(request: Request) -> Response:
        raise Busy("x", retry_after=3.0, hold=0.7)

    monkeypatch.setattr(APIRoute, "get_route_handler", lambda self: busy)

    async def scenario() -> None:
        handle = _Route("/infer", busy).get_route_handler()
        response = await handle(request_of(100.0))
        assert asyncio.get_running_loop().time() == pytest.approx(0.7)
        assert response.status_code == 503 and response.headers["retry-after"] == "3"

    virtual_time.run(scenario())


def test_memory_of_a_decoder_that_cannot_be_stopped_is_counted_until_it_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    decode_image = decode.decode_image

    def slow(data: bytes, limits: ImageLimits) -> Any:
        begun.set()
        assert go_on.wait(60)
        return decode_image(data, limits)

    monkeypatch.setattr(decode, "decode_image", slow)

    async def scenario() -> None:
        pool, memory = CpuPool(1, ImageLimits(), Metrics()), ImageMemory(10**7)

        async def use() -> None:
            with memory.lease() as lease:
                await pool.prepare(encode(tiles_image()), RULE, FAR, lease)

        leaving = asyncio.create_task(use())
        assert await asyncio.to_thread(begun.wait, 60)
        waiting = asyncio.create_task(use())
        await asyncio.sleep(0)
        leaving.cancel()
        waiting.cancel()
        await asyncio.gather(leaving, waiting, return_exceptions=True)
        assert memory.held > 0
        go_on.set()
        async with asyncio.timeout(60):
            while memory.held:
                await asyncio.sleep(0.01)
        pool.close()

    asyncio.run(scenario())


def test_memory_is_shared_first_come_first_served_and_given_back_once() -> None:
    async def scenario() -> None:
        memory, order = ImageMemory(100), []

        async def use(name: str, count: int, seconds: float) -> None:
            with memory.lease() as lease:
                if not lease.try_take(count):
                    await lease.take(count)
                order.append(name)
                assert memory.held <= memory.limit
                await asyncio.sleep(seconds)
                lease.shrink(lease.held // 2)
                await asyncio.sleep(seconds)

        uses = [("first", 60, 1.0), ("large", 90, 1.0), ("gone", 80, 1.0), ("small", 10, 1.0)]
        tasks = [asyncio.create_task(use(*each)) for each in uses]
        await asyncio.sleep(0.5)
        assert order == ["first"], "a small one does not overtake a large one for ever"
        tasks[2].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == ["first", "large", "small"]
        assert memory.held == 0

    virtual_time.run(scenario())


def test_whoever_is_cancelled_with_its_turn_gives_it_on() -> None:
    async def scenario() -> None:
        memory = ImageMemory(100)

        async def use() -> None:
            with memory.lease() as lease:
                await lease.take(100)
                await asyncio.sleep(1)

        for moment in range(6):  # before its turn, in the moment of it, and while it uses it
            first, second, third = (asyncio.create_task(use()) for _ in range(3))
            await asyncio.sleep(1)
            for _ in range(moment):
                await asyncio.sleep(0)
            second.cancel()
            await asyncio.gather(first, second, third, return_exceptions=True)
            assert memory.held == 0 and third.exception() is None

    virtual_time.run(scenario())


def test_an_image_that_gets_no_memory_in_time_is_refused() -> None:
    async def scenario() -> None:
        import time

        pool, memory = CpuPool(1, ImageLimits(), Metrics()), ImageMemory(10**6)
        assert memory.try_take(10**6)
        with memory.lease() as lease, pytest.raises(Busy, match="before the deadline"):
            await pool.prepare(encode(tiles_image()), RULE, time.monotonic() + 0.3, lease)
        memory.give(10**6)
        with memory.lease() as lease:
            prepared = await pool.prepare(encode(tiles_image()), RULE, FAR, lease)
            assert memory.held == lease.held == prepared.image.image.nbytes
        assert memory.held == 0
        assert isinstance(prepared.image.image, np.ndarray)
        pool.close()

    asyncio.run(scenario())
