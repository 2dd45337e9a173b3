"""An engine that changes its worker, and the control above it, with workers that are only pretended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from hindsight.artifact import Artifact
from hindsight.errors import ModelNotFound
from service import engine as engine_module
from service.engine import Engine
from service.errors import ChangeInProgress, EngineUnavailable, LoadFailed
from service.inflight import Requests
from service.metrics import Metrics
from service.model_control import ModelControl
from service.registry import ModelRegistry
from service.settings import Settings
from service.worker import WorkerSpec
from service.worker_process import Call, Reply, StartFailed
from tests.factories import make_tiny_artifact


class FakeWorker:
    """Starts when told how it went, runs a batch when allowed to."""

    made: list[FakeWorker]

    def __init__(self, spec: WorkerSpec, settings: Settings, on_lost: Callable[[Any, Any], None]) -> None:
        self.spec, self._on_lost = spec, on_lost
        self.step, self.pid, self.seconds = "loading", 1, dict.fromkeys(spec.artifacts, 0.1)
        self.lost, self.killed, self.calls = asyncio.Event(), False, 0
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.go_on = asyncio.Event()
        self.go_on.set()
        FakeWorker.made.append(self)

    def can_run(self, model: str) -> bool:
        lives = self.outcome.done() and not self.lost.is_set() and not self.killed
        return lives and model in self.spec.artifacts

    async def start(self) -> None:
        try:
            await self.outcome
        except BaseException:
            await self.kill()
            raise

    async def run(self, call: Call) -> Reply:
        self.calls += 1
        await self.go_on.wait()
        if self.killed or self.lost.is_set():
            raise EngineUnavailable("gone")
        return Reply({}, 0.1)

    async def kill(self) -> None:
        await asyncio.sleep(0)
        self.killed = True

    def lose(self) -> None:
        self.lost.set()
        self._on_lost(self, "crash")


class Bench:
    """Two devices that serve `tiny` 1, with workers in the order in which they were made."""

    def __init__(self, tiny: Artifact) -> None:
        FakeWorker.made = self.workers = []
        self.settings = Settings(restart_delay=0.001)
        self.registry = ModelRegistry([tiny])
        self.requests = Requests()
        spec = {tiny.identity: str(tiny.path)}
        self.engines = [
            Engine(WorkerSpec(spec, "sleep:0", device, None), self.settings, Metrics())
            for device in ("a", "b")
        ]
        self.control = ModelControl(self.registry, self.engines, self.requests, self.settings, Metrics())

    async def begin(self) -> None:
        for engine in self.engines:
            engine.start()
        await self.made(2)
        for worker in self.workers:
            worker.outcome.set_result(None)
        await self.until(lambda: all(engine.is_ready for engine in self.engines))

    async def made(self, count: int) -> None:
        await self.until(lambda: len(self.workers) == count)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.001)

    async def end(self) -> None:
        await self.control.stop()
        for engine in self.engines:
            await engine.stop()
        assert all(worker.killed for worker in self.workers)


@pytest.fixture
def play(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[Callable[[Bench], Coroutine[Any, Any, None]]], None]:
    """Runs a scenario on a bench that serves. `tiny` 2 lies in the folder then, where 1 was loaded from."""
    monkeypatch.setattr(engine_module, "WorkerProcess", FakeWorker)

    def played(scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
        async def whole() -> None:
            bench = Bench(make_tiny_artifact(tmp_path / "tiny"))
            make_tiny_artifact(tmp_path / "tiny", version="2", integrity=0.5)
            await bench.begin()
            await scenario(bench)
            await bench.end()

        asyncio.run(asyncio.wait_for(whole(), 60))

    return played


Play = Callable[[Callable[[Bench], Coroutine[Any, Any, None]]], None]


def call_of(artifact: Artifact) -> Call:
    return Call(artifact.identity, "detect", {}, 0)


def test_all_devices_change_at_one_instant(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        change = await bench.control.load("tiny", None)
        await bench.made(4)
        bench.workers[2].outcome.set_result(None)
        await asyncio.sleep(0.01)
        assert bench.registry.get(None).manifest.version == "1"  # one of two is warm
        assert bench.control.last_change("tiny") is not None
        with pytest.raises(ChangeInProgress):
            await bench.control.load("tiny", None)
        bench.workers[3].outcome.set_result(None)
        await bench.control.finished(change)
        new = bench.registry.get(None)
        assert new.manifest.version == "2"
        for engine in bench.engines:
            await engine.run(call_of(new))
        assert [worker.calls for worker in bench.workers] == [0, 0, 1, 1]
        await bench.until(lambda: bench.workers[0].killed and bench.workers[1].killed)
        assert not bench.workers[2].killed

    play(scenario)


def test_what_began_before_the_change_runs_on_the_old_worker_which_ends_after_it(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        with bench.requests.enter():
            old = bench.registry.get(None)
            await loaded(bench)
            assert bench.registry.get(None).manifest.version == "2"
            await bench.engines[0].run(call_of(old))
            assert bench.workers[0].calls == 1 and not bench.workers[0].killed
            with bench.requests.enter():  # begins after the change: does not hold up the old worker's end
                pass
        await bench.until(lambda: bench.workers[0].killed)
        with pytest.raises(EngineUnavailable, match="tiny@1 was unloaded or replaced"):
            await bench.engines[0].run(call_of(old))

    play(scenario)


async def loaded(bench: Bench) -> None:
    change = await bench.control.load("tiny", None)
    await bench.made(4)
    for worker in bench.workers[2:]:
        worker.outcome.set_result(None)
    await bench.control.finished(change)


def test_the_next_change_waits_for_the_end_of_the_old_workers(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        with bench.requests.enter():
            await loaded(bench)
            change = await bench.control.load("tiny", None)
            await asyncio.sleep(0.05)
            assert len(bench.workers) == 4  # two a device, never three
            assert "waiting for requests" in bench.control.last_change("tiny")["steps"][0]  # type: ignore[index]
        await bench.made(6)
        for worker in bench.workers[4:]:
            worker.outcome.set_result(None)
        await bench.control.finished(change)

    play(scenario)


def test_one_device_that_fails_gives_up_the_change_on_all(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        change = await bench.control.load("tiny", None)
        await bench.made(4)
        bench.workers[2].outcome.set_result(None)
        bench.workers[3].outcome.set_exception(StartFailed("no room"))
        with pytest.raises(LoadFailed, match="no room; the models are as they were"):
            await bench.control.finished(change)
        assert bench.workers[2].killed and bench.workers[3].killed
        assert bench.registry.get(None).manifest.version == "1"
        await bench.engines[0].run(call_of(bench.registry.get(None)))
        with pytest.raises(ModelNotFound):
            bench.registry.get("tiny@2")

    play(scenario)


def test_a_new_worker_that_dies_before_the_others_are_up_is_noticed(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        change = await bench.control.load("tiny", None)
        await bench.made(4)
        bench.workers[2].outcome.set_result(None)
        await asyncio.sleep(0.01)
        bench.workers[2].lose()
        bench.workers[3].outcome.set_result(None)
        with pytest.raises(LoadFailed, match="died as soon as it was up"):
            await bench.control.finished(change)
        assert all(engine.is_ready for engine in bench.engines)

    play(scenario)


def test_the_old_worker_dies_and_is_being_restarted_when_the_new_one_takes_over(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        change = await bench.control.load("tiny", None)
        await bench.made(4)
        bench.workers[0].lose()
        assert not bench.engines[0].is_ready
        await bench.made(5)  # its successor, which never comes up
        bench.workers[2].outcome.set_result(None)
        bench.workers[3].outcome.set_result(None)
        await bench.control.finished(change)
        assert bench.engines[0].is_ready
        await bench.until(lambda: bench.workers[4].killed)
        await asyncio.sleep(0.02)
        assert len(bench.workers) == 5  # nobody restarts the old version
        bench.workers[2].lose()
        await bench.made(6)
        assert bench.workers[5].spec == bench.workers[2].spec

    play(scenario)


def test_a_batch_that_runs_during_the_change_ends_where_it_runs(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        bench.workers[0].go_on.clear()
        with bench.requests.enter():
            running = asyncio.create_task(bench.engines[0].run(call_of(bench.registry.get(None))))
            await bench.until(lambda: bench.workers[0].calls == 1)
            await loaded(bench)
            bench.workers[0].go_on.set()
            assert await running
        await bench.until(lambda: bench.workers[0].killed)

    play(scenario)


def test_a_retired_worker_that_dies_does_not_touch_readiness(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        with bench.requests.enter():
            await loaded(bench)
            bench.workers[0].lose()
            assert all(engine.is_ready for engine in bench.engines)
            await asyncio.sleep(0.02)
            assert len(bench.workers) == 4

    play(scenario)


def test_an_old_worker_is_held_for_as_long_as_a_client_may_have_asked_for(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        brief = {"timeout": 0.01, "body_timeout": 0.01, "hang_timeout": 0.01, "max_timeout": 60}
        settings = Settings(**brief)
        bench.control = ModelControl(bench.registry, bench.engines, bench.requests, settings, Metrics())
        with bench.requests.enter():  # with X-Request-Timeout: 60
            await loaded(bench)
            await asyncio.sleep(0.3)
            assert not bench.workers[0].killed
        await bench.until(lambda: bench.workers[0].killed)

    play(scenario)


def test_a_model_that_is_gone_takes_its_metrics_along(play: Play, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        other = make_tiny_artifact(tmp_path / "other", name="other")
        bench.registry.replace([*bench.registry, other])
        metrics = Metrics()
        bench.control = ModelControl(bench.registry, bench.engines, bench.requests, bench.settings, metrics)
        for model in ("tiny", "other"):
            metrics.images.labels(model, "detect").inc()
            metrics.queue_depth.labels(model).inc()
            metrics.stage_seconds.labels(model, "decode").observe(1)
        with bench.requests.enter():
            change = bench.control.unload("other", None)
            await bench.made(4)
            for worker in bench.workers[2:]:
                worker.outcome.set_result(None)
            await bench.control.finished(change)
            metrics.queue_depth.labels("other").dec()  # a request that began before is still under way
        await bench.until(lambda: 'model="other"' not in metrics.render().decode())
        assert metrics.render().decode().count('model="tiny"') > 10

    play(scenario)


def test_a_stop_in_the_middle_of_a_change_leaves_no_worker(play: Play) -> None:
    async def scenario(bench: Bench) -> None:
        change = await bench.control.load("tiny", None)
        await bench.made(4)
        await bench.control.stop()
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await bench.control.finished(change)

    play(scenario)
