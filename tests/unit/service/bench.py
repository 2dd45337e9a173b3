"""A batcher on an engine that records what it is asked to run, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from hindsight.artifact import Artifact
from hindsight.errors import OutOfMemory, RuntimeFailure
from hindsight.options import DetectOptions
from hindsight.preprocess import Letterboxed
from service.admission import Slot
from service.batcher import Batcher, Done
from service.callers import Caller
from service.engine import Call, Engine, Reply
from service.metrics import Metrics
from service.settings import Settings
from service.work import Work
from tests.virtual_time import settle

SECONDS_EACH = 0.04
POISON = 13


class RecordingEngine:
    """Takes SECONDS_EACH an image, and forever while it is held. A batch with a pixel of value POISON fails;
    one of more images than `room` does not fit.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.state = "ready"
        self.ready = asyncio.Event()
        self.ready.set()
        self.on_lost: Callable[[Any], None] = lambda engine: None
        self.calls: list[Call] = []
        self.open = asyncio.Event()
        self.open.set()
        self.room = 1000
        self.seconds_each = SECONDS_EACH

    @property
    def is_ready(self) -> bool:
        return self.ready.is_set()

    async def run(self, call: Call) -> Reply:
        self.calls.append(call)
        await self.open.wait()
        images = call.inputs["images"]
        if len(images) > self.room:
            raise OutOfMemory("no room")
        if (images == POISON).any():
            raise RuntimeFailure("poisoned")
        seconds = self.seconds_each * len(images)
        await asyncio.sleep(seconds)
        return Reply({"first_pixels": images[:, 0, 0, 0].copy()}, seconds)

    def lose(self) -> None:
        self.ready.clear()
        self.on_lost(self)

    @property
    def sizes(self) -> list[int]:
        return [len(call.inputs["images"]) for call in self.calls]

    @property
    def pixels(self) -> list[list[int]]:
        """By batch, the first pixel of each image."""
        return [call.inputs["images"][:, 0, 0, 0].tolist() for call in self.calls]


class Bench:
    """Made inside a running loop."""

    def __init__(
        self,
        artifact: Artifact,
        device: str = "cpu",
        engine: RecordingEngine | None = None,
        **settings: Any,
    ) -> None:
        self.artifact = artifact
        self.engine = engine or RecordingEngine(device)
        self.settings = Settings(**{"max_queue_seconds": 1000, **settings})
        self.metrics = Metrics()
        self.clock = asyncio.get_running_loop().time
        self.batcher = Batcher([cast(Engine, self.engine)], self.settings, self.metrics, self.clock)
        self.batcher.start()

    def work(self, value: int = 0, hw: tuple[int, int] = (64, 96), nms: float = 0.5) -> Work:
        image = np.full((*hw, 3), value, np.uint8)
        options = DetectOptions.resolve(self.artifact.manifest, nms_threshold=nms)
        return Work(self.artifact, "detect", Letterboxed(image, hw, hw), options)

    def caller(self, client: str = "", seconds: float = 60) -> Caller:
        return Caller(client, self.clock() + seconds, seconds)

    def admit(self, count: int = 1, client: str = "", seconds: float = 60) -> list[Slot]:
        return self.batcher.admit(count, self.caller(client, seconds), model="tiny")

    def submit(self, work: Work, seconds: float = 60, client: str = "") -> asyncio.Task[Done]:
        """One request of one image."""
        [slot] = self.admit(1, client, seconds)
        return asyncio.create_task(self.batcher.submit(work, slot))

    def submit_many(self, values: range, client: str = "") -> list[asyncio.Task[Done]]:
        """One request of several images."""
        slots = self.admit(len(values), client)
        return [
            asyncio.create_task(self.batcher.submit(self.work(value), slot))
            for value, slot in zip(values, slots, strict=True)
        ]

    async def hold_engine(self) -> asyncio.Task[Done]:
        """Occupy the engine with one image until `self.engine.open.set()`."""
        self.engine.open.clear()
        task = self.submit(self.work())
        while not self.engine.calls or self.engine.calls[-1].inputs["images"][0, 0, 0, 0] != 0:
            await asyncio.sleep(0)
        return task

    async def hold_batch(self, *values: int) -> list[asyncio.Task[Done]]:
        """One batch of these images, in the engine until `self.engine.open.set()`."""
        self.engine.open.clear()
        tasks = [self.submit(self.work(value)) for value in values]
        await settle()
        assert self.engine.sizes == [len(values)]
        return tasks

    async def run_behind_one(self, *values: int) -> list[Done]:
        """So that they meet in the queue, and may share batches."""
        first = await self.hold_engine()
        tasks = [self.submit(self.work(value)) for value in values]
        await settle()
        self.engine.open.set()
        await first
        return await asyncio.gather(*tasks)

    def dropped(self, reason: str) -> float:
        return (
            self.metrics.registry.get_sample_value(
                "hindsight_drops_total", {"model": "tiny", "reason": reason}
            )
            or 0.0
        )
