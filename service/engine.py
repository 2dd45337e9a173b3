"""An engine: one device, the worker process that serves it, and the task that keeps one alive.

A worker that dies, or stays silent past the hang timeout, is killed and replaced; the batch it had fails with
EngineUnavailable (503) and the server goes on. Another set of models comes with another worker, a `candidate`
that warms up beside the one that serves: `adopt` lets it take over between two batches, and the old one,
retired, still runs the batches of models that it alone has, until `end_retired`.
"""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import Literal

from service.errors import EngineUnavailable
from service.logs import log
from service.metrics import Metrics
from service.settings import Settings
from service.worker import WorkerSpec
from service.worker_process import Call, Cause, Reply, StartFailed, WorkerProcess

__all__ = ["Call", "Engine", "Reply"]

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
_MAX_RESTART_DELAY = 30.0
_HEALTHY_AFTER = 30.0


class Engine:
    """One device. `start()` supervises in the background; `run()` serves one batch at a time."""

    def __init__(self, spec: WorkerSpec, settings: Settings, metrics: Metrics) -> None:
        self.spec = spec
        self.device = spec.device
        self.state: State = "starting"
        self.failure: str | None = None
        """Why the last attempt to start a worker failed."""
        self.ready = asyncio.Event()
        self.on_ready: Callable[[Engine, Mapping[str, float]], None] = lambda engine, seconds: None
        self.on_lost: Callable[[Engine], None] = lambda engine: None
        self.on_start_failed: Callable[[Engine, str], None] = lambda engine, reason: None
        self._settings = settings
        self._metrics = metrics
        self._worker: WorkerProcess | None = None
        self._retired: list[WorkerProcess] = []
        self._supervisor: asyncio.Task[None] | None = None
        self._relieved: set[asyncio.Task[None]] = set()  # supervisors that have been cancelled

    @property
    def is_ready(self) -> bool:
        return self.ready.is_set()

    @property
    def step(self) -> str:
        """What the worker does: "serving", or what it is loading."""
        return self._worker.step if self._worker is not None else "waiting to start"

    def start(self) -> None:
        """Begin to supervise; returns at once."""
        self._supervise_with(None)

    async def stop(self) -> None:
        """End all workers and their supervision."""
        supervisors = self._relieved | ({self._supervisor} if self._supervisor is not None else set())
        for task in supervisors:
            task.cancel()
        await asyncio.gather(*supervisors, return_exceptions=True)
        self._not_ready()
        if self._worker is not None:
            await self._worker.kill()
        await self.end_retired()
        self.state = "stopped"

    async def run(self, call: Call) -> Reply:
        """Run one batch. RuntimeFailure, OutOfMemory: the runtime refused it, the worker lives.
        EngineUnavailable: the worker is lost, or no worker has this model any more.
        """
        for worker in (self._worker, *self._retired):
            if worker is not None and worker.can_run(call.model):
                begun = time.monotonic()
                try:
                    return await worker.run(call)
                finally:
                    busy = self._metrics.engine_busy_seconds.labels(self.device, call.model.partition("@")[0])
                    busy.inc(time.monotonic() - begun)
        if not self.is_ready:
            raise EngineUnavailable(f"the worker of device {self.device} is {self.state}; retry shortly")
        name = call.model.partition("#")[0]
        raise EngineUnavailable(f"{name} was unloaded or replaced before this image could run; retry shortly")

    def candidate(self, artifacts: dict[str, str]) -> WorkerProcess:
        """A worker for this device with these models, not started: the caller's until it is adopted."""
        return self._new_worker(dataclasses.replace(self.spec, artifacts=artifacts))

    def adopt(self, worker: WorkerProcess) -> None:
        """Let a candidate that has started take over: the next batch is its own, and it is what gets
        restarted. A batch that is running ends where it runs. The old worker is retired, whatever its state.
        """
        if self._supervisor is not None:
            self._supervisor.cancel()
            self._relieved.add(self._supervisor)
            self._supervisor.add_done_callback(self._relieved.discard)
        if self._worker is not None:
            self._retired.append(self._worker)
        self._worker, self.spec = worker, worker.spec
        self._now_ready()
        self._supervise_with(worker)

    async def end_retired(self) -> None:
        """End the workers that others have taken over from."""
        while self._retired:
            await self._retired[0].kill()
            self._retired.pop(0)

    def _new_worker(self, spec: WorkerSpec) -> WorkerProcess:
        return WorkerProcess(spec, self._settings, self._worker_lost)

    def _supervise_with(self, worker: WorkerProcess | None) -> None:
        self._supervisor = asyncio.create_task(self._supervise(worker), name=f"supervise {self.device}")

    async def _supervise(self, worker: WorkerProcess | None) -> None:
        """Keep a worker alive for ever, the first being `worker`, or one to be started."""
        delay = self._settings.restart_delay
        while True:
            started = time.monotonic()
            if worker is None:
                worker = await self._started()
            if worker is not None:
                log(
                    logging.INFO,
                    "worker ready",
                    device=self.device,
                    pid=worker.pid,
                    warm_up_seconds=worker.seconds,
                )
                self.on_ready(self, worker.seconds)
                await worker.lost.wait()
                await worker.kill()
                worker = None
                if time.monotonic() - started > _HEALTHY_AFTER:
                    delay = self._settings.restart_delay
            await asyncio.sleep(delay)
            delay = min(delay * 2, _MAX_RESTART_DELAY)

    async def _started(self) -> WorkerProcess | None:
        """A new worker that serves; None when it failed."""
        worker = self._worker = self._new_worker(self.spec)
        try:
            await worker.start()
        except StartFailed as error:
            self.failure, self.state = str(error), "failed"
            self.on_start_failed(self, str(error))
            return None
        self._now_ready()
        return worker

    def _now_ready(self) -> None:
        self.failure, self.state = None, "ready"
        self._metrics.worker_ready.labels(self.device).set(1)
        self.ready.set()

    def _not_ready(self) -> None:
        self.ready.clear()
        self._metrics.worker_ready.labels(self.device).set(0)

    def _worker_lost(self, worker: WorkerProcess, cause: Cause) -> None:
        serves = worker is self._worker
        self._metrics.worker_restarts.labels(self.device, cause).inc()
        log(
            logging.ERROR,
            "worker lost",
            device=self.device,
            cause=cause,
            pid=worker.pid,
            serves=serves,
        )
        if serves:
            self._not_ready()
            self.state = "restarting"
            self.on_lost(self)
