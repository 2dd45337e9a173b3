"""The supervision of a worker, where no worker can be had."""

from __future__ import annotations

import asyncio
from multiprocessing import Pipe
from multiprocessing.context import SpawnProcess
from typing import Any, cast

import numpy as np
import pytest

from service import worker_process
from service.engine import Engine
from service.metrics import Metrics
from service.settings import Settings
from service.worker import WorkerSpec
from service.worker_process import Call, WorkerProcess


def engine_of(**settings: Any) -> Engine:
    return Engine(WorkerSpec({}, "sleep:0", "cpu", None), Settings(**settings), Metrics())


def test_a_machine_without_room_for_a_process_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(process: SpawnProcess) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(SpawnProcess, "start", refuse)

    async def scenario() -> None:
        engine = engine_of(restart_delay=0.01)
        reasons: list[str] = []
        twice = asyncio.Event()

        def failed(_: Engine, reason: str) -> None:
            reasons.append(reason)
            if len(reasons) == 2:
                twice.set()

        engine.on_start_failed = failed
        engine.start()
        await asyncio.wait_for(twice.wait(), 30)
        assert "Resource temporarily unavailable" in reasons[0] and engine.state == "failed"
        await engine.stop()

    asyncio.run(scenario())


def test_a_cancelled_copy_ends_before_its_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        worker = WorkerProcess(
            WorkerSpec({"m": ""}, "sleep:0", "cpu", None), Settings(), lambda worker, cause: None
        )
        worker._started, worker._connection = True, cast(Any, Pipe()[0])  # as if it were there
        copying, copied = asyncio.Event(), []
        loop = asyncio.get_running_loop()
        write = worker_process.write_arrays

        def slow_write(*arguments: Any) -> Any:
            loop.call_soon_threadsafe(copying.set)
            layout = [write(*arguments) for _ in range(20)]
            copied.append(True)
            return layout[-1]

        monkeypatch.setattr(worker_process, "write_arrays", slow_write)
        call = Call("m", "detect", {"images": np.zeros((8, 640, 960, 3), np.uint8)}, 1000)
        running = asyncio.create_task(worker.run(call))
        await copying.wait()
        running.cancel()
        killing = asyncio.create_task(worker.kill())  # must not take the memory away under the copy either
        await asyncio.gather(running, return_exceptions=True)
        assert copied
        await killing

    asyncio.run(scenario())
