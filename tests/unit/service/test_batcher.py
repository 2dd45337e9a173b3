"""The batcher against an engine that records what it is asked to run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from hindsight.artifact import Artifact
from hindsight.errors import RuntimeFailure
from hindsight.options import DetectOptions
from hindsight.preprocess import Letterboxed
from service.batcher import Batcher, Done
from service.engine import Call, Engine, Reply
from service.errors import Busy, DeadlineExceeded, EngineUnavailable
from service.metrics import Metrics
from service.settings import Settings
from service.work import Work, round_nms_threshold

SECONDS_EACH = 0.04


class RecordingEngine:
    """Answers at once unless held; a batch with a pixel of value 13 fails, as a poisonous image would."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self.state = "ready"
        self.ready = asyncio.Event()
        self.ready.set()
        self.on_lost: Callable[[Any], None] = lambda engine: None
        self.calls: list[Call] = []
        self.open = asyncio.Event()
        self.open.set()

    @property
    def is_ready(self) -> bool:
        return self.ready.is_set()

    async def run(self, call: Call) -> Reply:
        self.calls.append(call)
        await self.open.wait()
        images = call.inputs["images"]
        if (images == 13).any():
            raise RuntimeFailure("poisoned")
        return Reply({"first_pixels": images[:, 0, 0, 0].copy()}, SECONDS_EACH * len(images))

    def lose(self) -> None:
        self.ready.clear()
        self.on_lost(self)

    @property
    def sizes(self) -> list[int]:
        return [len(call.inputs["images"]) for call in self.calls]


class Bench:
    """A batcher on one recording engine, and a way to submit."""

    def __init__(self, artifact: Artifact, device: str = "cpu", **settings: Any) -> None:
        self.artifact = artifact
        self.engine = RecordingEngine(device)
        self.settings = Settings(model=("tiny",), **settings)
        self.batcher = Batcher([cast(Engine, self.engine)], self.settings, Metrics())
        self.batcher.start()

    def work(self, value: int = 0, hw: tuple[int, int] = (64, 96), nms: float = 0.5) -> Work:
        image = np.full((*hw, 3), value, np.uint8)
        options = DetectOptions.resolve(self.artifact.manifest, nms_threshold=nms)
        return Work(self.artifact, "detect", Letterboxed(image, hw, hw), options)

    def submit(self, work: Work, seconds: float = 5) -> asyncio.Task[Done]:
        [slot] = self.batcher.admit(1, "tiny")
        return asyncio.create_task(self.batcher.submit(work, slot, time.monotonic() + seconds))

    async def hold_engine(self) -> asyncio.Task[Done]:
        """Occupy the engine with one image until `self.engine.open.set()`."""
        self.engine.open.clear()
        task = self.submit(self.work())
        while not self.engine.calls:
            await asyncio.sleep(0)
        return task

    async def hold_batch(self, *values: int) -> list[asyncio.Task[Done]]:
        """One batch of these images, in the engine until `self.engine.open.set()`."""
        self.engine.open.clear()
        tasks = [self.submit(self.work(value)) for value in values]
        await settle()
        assert self.engine.sizes == [len(values)]
        return tasks


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def test_an_idle_engine_runs_a_lone_image_at_once(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact)
        done = await bench.submit(bench.work(7))
        assert done.outputs["first_pixels"][done.index] == 7
        assert bench.engine.sizes == [1]
        await bench.batcher.stop()

    run(scenario())


def test_what_waits_shares_a_batch_only_within_shape_and_nms_threshold(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda")
        first = await bench.hold_engine()
        works = [
            bench.work(1),
            bench.work(2, hw=(96, 96)),
            bench.work(3),
            bench.work(4, nms=0.6),
            bench.work(5, hw=(96, 96)),
        ]
        tasks = [bench.submit(work) for work in works]
        await settle()
        bench.engine.open.set()
        results = [await task for task in (first, *tasks)]
        assert [int(done.outputs["first_pixels"][done.index]) for done in results] == [0, 1, 2, 3, 4, 5]
        assert [call.inputs["images"][:, 0, 0, 0].tolist() for call in bench.engine.calls] == [
            [0],
            [1, 3],
            [2, 5],
            [4],
        ]
        await bench.batcher.stop()

    run(scenario())


@pytest.mark.parametrize(("device", "largest"), [("cpu", 3), ("cuda", 8)])
def test_a_cpu_batch_holds_no_more_work_than_allowed(
    tiny_artifact: Artifact, device: str, largest: int
) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device=device, max_batch=8)
        await bench.submit(bench.work())  # measures 40 ms an image: 150 ms hold three
        first = await bench.hold_engine()
        tasks = [bench.submit(bench.work()) for _ in range(8)]
        await settle()
        bench.engine.open.set()
        await asyncio.gather(first, *tasks)
        assert max(bench.engine.sizes) == largest
        await bench.batcher.stop()

    run(scenario())


def test_one_poisonous_image_fails_alone(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda")
        first = await bench.hold_engine()
        tasks = [bench.submit(bench.work(value)) for value in (1, 13, 3)]
        await settle()
        bench.engine.open.set()
        await first
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[1], RuntimeFailure)
        assert [isinstance(outcome, Done) for outcome in outcomes] == [True, False, True]
        await bench.batcher.stop()

    run(scenario())


def test_clients_that_left_are_skipped_when_a_failed_batch_is_retried(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda")
        poisonous, left, waiting = await bench.hold_batch(13, 2, 3)
        left.cancel()
        await settle()
        bench.engine.open.set()
        with pytest.raises(RuntimeFailure):
            await poisonous
        assert isinstance(await waiting, Done)
        assert bench.engine.sizes == [3, 1, 1]
        await bench.batcher.stop()

    run(scenario())


def test_a_stop_during_a_retry_answers_the_whole_batch(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda")
        tasks = await bench.hold_batch(13, 2, 3)
        holds_the_batch, bench.engine.open = bench.engine.open, asyncio.Event()
        holds_the_batch.set()
        await settle()
        assert bench.engine.sizes == [3, 1]  # the batch failed, the first retry is held
        await bench.batcher.stop()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [EngineUnavailable] * 3

    run(scenario())


def test_past_its_deadline_an_image_is_dropped_unexecuted(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact)
        first = await bench.hold_engine()
        with pytest.raises(DeadlineExceeded):
            await bench.submit(bench.work(9), seconds=0.01)
        bench.engine.open.set()
        await first
        await settle()
        assert bench.engine.sizes == [1]
        await bench.batcher.stop()

    run(scenario())


def test_a_cancelled_image_leaves_the_queue_and_its_place(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, max_queue=1, max_images=1)
        first = await bench.hold_engine()
        task = bench.submit(bench.work(9))
        await settle()
        with pytest.raises(Busy):
            bench.batcher.admit(1, "tiny")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        [slot] = bench.batcher.admit(1, "tiny")
        slot.release()
        slot.release()  # twice gives one place back
        assert len(bench.batcher.admit(1, "tiny")) == 1
        with pytest.raises(Busy):
            bench.batcher.admit(1, "tiny")
        bench.engine.open.set()
        await first
        assert bench.engine.sizes == [1]
        await bench.batcher.stop()

    run(scenario())


def test_a_full_queue_says_how_long_it_will_take(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, max_queue=10, max_images=10)
        bench.batcher.times.observe(("tiny", "detect", (64, 96)), 1, 2.0)
        first = await bench.hold_engine()
        tasks = [bench.submit(bench.work()) for _ in range(10)]
        await settle()
        with pytest.raises(Busy) as refused:
            bench.batcher.admit(1, "tiny")
        assert refused.value.retry_after == pytest.approx(22, abs=0.5)
        bench.engine.open.set()
        await asyncio.gather(first, *tasks)
        await bench.batcher.stop()

    run(scenario())


def test_when_the_only_worker_is_lost_nobody_waits_in_silence(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact)
        first = await bench.hold_engine()
        task = bench.submit(bench.work())
        await settle()
        bench.engine.lose()
        with pytest.raises(EngineUnavailable):
            await task
        with pytest.raises(EngineUnavailable):
            bench.batcher.admit(1, "tiny")
        bench.engine.open.set()
        await first
        bench.engine.ready.set()
        assert isinstance(await bench.submit(bench.work()), Done)
        await bench.batcher.stop()

    run(scenario())


@pytest.mark.parametrize(
    ("given", "used"), [(0.5, 0.5), (0.512, 0.5), (0.53, 0.55), (0.01, 0.05), (1.0, 1.0), (0.999, 1.0)]
)
def test_nms_thresholds_meet_on_a_grid(given: float, used: float) -> None:
    assert round_nms_threshold(given) == used


def test_every_file_of_the_service_is_importable_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, service.app, service.worker, service.cli; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
