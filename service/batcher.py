"""The queue between requests and engines.

Every image is one entry with its own future, deadline and bucket. An engine that falls idle takes the oldest
entry and whatever waits in the same bucket: nothing ever waits for a batch to fill. Entries leave the queue
by being taken, by passing their deadline (504) or by being cancelled (their client is gone); none of these
needs anybody else to move.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hindsight.errors import RuntimeFailure
from service.engine import Engine
from service.errors import Busy, DeadlineExceeded, EngineUnavailable
from service.estimates import ServiceTimes
from service.logs import log
from service.metrics import Metrics
from service.settings import Settings
from service.work import Work, call_for
from service.worker import Arrays


@dataclass(frozen=True)
class Done:
    """The outputs of the batch an image was in, its row there, and its times in seconds."""

    outputs: Arrays
    index: int
    queue_seconds: float
    model_seconds: float
    transfer_seconds: float


class Slot:
    """One admitted image's place among those that wait; given back once, when it starts to run or fails."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def release(self) -> None:
        if self._release is not None:
            self._release()
            self._release = None


@dataclass(eq=False)
class _Entry:
    work: Work
    slot: Slot
    deadline: float
    submitted: float
    done: "asyncio.Future[Done]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Batcher:
    """Admission, the queue, and one consumer task per engine."""

    def __init__(self, engines: list[Engine], settings: Settings, metrics: Metrics) -> None:
        self._engines = engines
        self._settings = settings
        self._metrics = metrics
        self._entries: list[_Entry] = []
        self._arrival = asyncio.Event()
        self._admitted = 0
        self._running_until: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.times = ServiceTimes()
        for engine in engines:
            engine.on_lost = self._engine_lost

    def start(self) -> None:
        """Begin to feed the engines."""
        self._tasks = [
            asyncio.create_task(self._feed(engine), name=f"feed {engine.device}") for engine in self._engines
        ]

    async def stop(self) -> None:
        """Stop feeding; whoever still waits gets EngineUnavailable."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_all("the server is shutting down")

    @property
    def ready(self) -> bool:
        return any(engine.is_ready for engine in self._engines)

    def admit(self, count: int, model: str) -> list[Slot]:
        """Places for `count` images, before anything is decoded. Busy when the queue is full,
        EngineUnavailable when nobody could run them.
        """
        if not self.ready:
            self._metrics.drops.labels(model, "unavailable").inc(count)
            states = ", ".join(f"{engine.device} is {engine.state}" for engine in self._engines)
            raise EngineUnavailable(f"no worker is ready ({states}); retry shortly")
        if self._admitted + count > self._settings.max_queue:
            self._metrics.drops.labels(model, "queue_full").inc(count)
            wait = self.expected_wait()
            raise Busy(
                f"{self._admitted} of {self._settings.max_queue} places are taken, {count} more needed; "
                f"retry in {max(1, math.ceil(wait))} s",
                retry_after=wait,
            )
        self._count(count, model)
        return [Slot(lambda: self._count(-1, model)) for _ in range(count)]

    def expected_wait(self) -> float:
        """Seconds until everything that waits now has run."""
        now = time.monotonic()
        running = max([0.0, *(until - now for until in self._running_until.values())])
        queued = sum(self.times.seconds(entry.work.shape_key) for entry in self._entries)
        undecoded = self._admitted - len(self._entries)
        if undecoded > 0:
            queued += undecoded * (queued / len(self._entries) if self._entries else 0.1)
        return running + queued / max(1, sum(engine.is_ready for engine in self._engines))

    async def submit(self, work: Work, slot: Slot, deadline: float) -> Done:
        """Wait for a turn and run. DeadlineExceeded: not started by `deadline` (time.monotonic seconds).
        Cancelling the caller takes the image out of the queue.
        """
        if not self.ready:
            raise EngineUnavailable("the worker was lost before this image could run; retry shortly")
        if time.monotonic() >= deadline:
            self._metrics.drops.labels(work.model, "deadline").inc()
            raise DeadlineExceeded(
                f"decoding ended past the deadline of {self._settings.timeout:g} s; the image was not run"
            )
        entry = _Entry(work, slot, deadline, time.monotonic())
        timer = asyncio.get_running_loop().call_later(
            max(0.0, deadline - time.monotonic()), self._expire, entry
        )
        self._entries.append(entry)
        self._arrival.set()
        try:
            return await entry.done
        except asyncio.CancelledError:
            if entry in self._entries:
                self._entries.remove(entry)
                self._metrics.drops.labels(work.model, "disconnected").inc()
            raise
        finally:
            timer.cancel()
            slot.release()

    async def _feed(self, engine: Engine) -> None:
        while True:
            await engine.ready.wait()
            if self._entries:
                await self._run(engine, self._take(engine))
            else:
                self._arrival.clear()
                await self._arrival.wait()

    def _take(self, engine: Engine) -> list[_Entry]:
        """The oldest entry and those behind it in its bucket, in order, as many as one batch may hold."""
        first = self._entries[0]
        limit = self._settings.max_batch
        if engine.device.startswith("cpu"):
            each = self.times.seconds(first.work.shape_key)
            limit = min(limit, max(1, int(self._settings.batch_work_seconds / max(each, 1e-6))))
        bucket = first.work.bucket
        batch = [entry for entry in self._entries if entry.work.bucket == bucket][:limit]
        taken = set(map(id, batch))
        self._entries = [entry for entry in self._entries if id(entry) not in taken]
        for entry in batch:
            entry.slot.release()
        return batch

    async def _run(self, engine: Engine, batch: list[_Entry]) -> None:
        started = time.monotonic()
        works = [entry.work for entry in batch]
        key = works[0].shape_key
        self._running_until[engine.device] = started + self.times.seconds(key) * len(batch)
        self._metrics.batch_size.labels(works[0].model, engine.device).observe(len(batch))
        try:
            reply = await engine.run(call_for(works))
        except RuntimeFailure as error:
            if len(batch) == 1:
                log(logging.ERROR, "runtime failed", device=engine.device, model=key[0], reason=str(error))
                _fail(batch, error)
            else:
                await self._run_each(engine, batch)
            return
        except Exception as error:
            if isinstance(error, EngineUnavailable):
                self._metrics.drops.labels(works[0].model, "worker_lost").inc(len(batch))
            _fail(batch, error)
            return
        except asyncio.CancelledError:
            _fail(batch, EngineUnavailable("the server is shutting down"))
            raise
        finally:
            self._running_until.pop(engine.device, None)
        elapsed = time.monotonic() - started
        self.times.observe(key, len(batch), reply.seconds)
        for index, entry in enumerate(batch):
            if not entry.done.done():
                queued = started - entry.submitted
                entry.done.set_result(
                    Done(reply.outputs, index, queued, reply.seconds, elapsed - reply.seconds)
                )

    async def _run_each(self, engine: Engine, batch: list[_Entry]) -> None:
        """One of the batch made the runtime fail; alone, only that one will."""
        try:
            for entry in batch:
                if not entry.done.done():  # its client may have left meanwhile
                    await self._run(engine, [entry])
        finally:
            _fail(batch, EngineUnavailable("the server is shutting down"))  # only those that never ran

    def _expire(self, entry: _Entry) -> None:
        if entry not in self._entries:
            return  # running: it will be answered
        self._entries.remove(entry)
        self._metrics.drops.labels(entry.work.model, "deadline").inc()
        waited = time.monotonic() - entry.submitted
        limit = self._settings.timeout
        message = f"the image waited {waited:.1f} s in the queue and was not run (limit {limit:g} s)"
        _fail([entry], DeadlineExceeded(message))

    def _engine_lost(self, engine: Engine) -> None:
        if not self.ready:
            self._fail_all(
                f"the worker of device {engine.device} was lost and is being restarted; retry shortly"
            )

    def _fail_all(self, reason: str) -> None:
        waiting, self._entries = self._entries, []
        for entry in waiting:
            self._metrics.drops.labels(entry.work.model, "worker_lost").inc()
        _fail(waiting, EngineUnavailable(reason))

    def _count(self, change: int, model: str) -> None:
        self._admitted += change
        self._metrics.queue_depth.labels(model).inc(change)


def _fail(entries: list[_Entry], error: Exception) -> None:
    for entry in entries:
        if not entry.done.done():
            entry.done.set_exception(error)
