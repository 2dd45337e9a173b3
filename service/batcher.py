"""From the queue to the engines, a batch at a time.

An image is admitted (admission.py), decoded, and then waits here for its turn (scheduler.py). An engine that
falls idle takes the image whose turn it is and whatever may share its batch: nothing ever waits for a batch
to fill. Images leave the queue by being taken, by passing their deadline (504) or by being cancelled (their
client is gone); none of these needs anybody else to move.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from hindsight.errors import OutOfMemory, RuntimeFailure
from service.admission import Admission, Admitted, Capacity, Slot
from service.batch_limits import BatchLimits
from service.callers import Caller
from service.engine import Engine
from service.errors import DeadlineExceeded, EngineUnavailable
from service.estimates import ServiceTimes
from service.logs import log
from service.metrics import Metrics
from service.scheduler import FairQueue
from service.settings import Settings
from service.work import Bucket, Work, call_for
from service.worker import Arrays

_STOPPING = "the server is shutting down; retry elsewhere or later"


@dataclass(frozen=True)
class Done:
    """The outputs of the batch an image was in, its row there, and its times in seconds."""

    outputs: Arrays
    index: int
    queue_seconds: float
    model_seconds: float
    transfer_seconds: float


@dataclass(eq=False)
class _Entry:
    """An image that waits or runs; see scheduler.Waiting."""

    work: Work
    slot: Slot
    submitted: float
    bucket: Bucket
    seconds: float
    done: "asyncio.Future[Done]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def client(self) -> str:
        return self.slot.request.caller.client

    @property
    def deadline(self) -> float:
        return self.slot.request.caller.deadline

    @property
    def request(self) -> Admitted:
        return self.slot.request


class Batcher:
    """The queue, and one consumer task per engine. clock: as time.monotonic."""

    def __init__(
        self,
        engines: list[Engine],
        settings: Settings,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = engines
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._admission = Admission(settings, metrics, clock)
        self._queue: FairQueue[_Entry] = FairQueue()
        self._arrival = asyncio.Event()
        self._running_until: dict[str, float] = {}
        self._limits = {engine.device: BatchLimits(settings.max_batch, clock) for engine in engines}
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped = False
        self.times = ServiceTimes()
        for engine in engines:
            engine.on_lost = self._engine_lost
        metrics.queue_wait.set_function(self.expected_wait)

    def start(self) -> None:
        """Begin to feed the engines."""
        self._tasks = [
            asyncio.create_task(self._feed(engine), name=f"feed {engine.device}") for engine in self._engines
        ]

    async def stop(self) -> None:
        """Stop feeding; whoever still waits, and whoever comes later, gets EngineUnavailable."""
        self._stopped = True
        self._fail_all(_STOPPING)  # before a cancelled batch ends the worker
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._fail_all(_STOPPING)

    @property
    def ready(self) -> bool:
        return not self._stopped and any(engine.is_ready for engine in self._engines)

    def admit(self, count: int, caller: Caller | None = None, *, model: str) -> list[Slot]:
        """Places for `count` images of a request, before anything is decoded. Raises Busy;
        EngineUnavailable when nobody could run them.
        """
        self._require_engine(count, model)
        caller = caller or Caller.with_default_deadline(self._settings, self._clock())
        each = self.times.before_decoding(model)
        return self._admission.admit(count, caller, model, each, self._capacity())

    def check_room(self, caller: Caller, *, model: str) -> None:
        """Raises what `admit` would for a single image: what is hopeless need not even send its body."""
        self._require_engine(1, model)
        self._admission.check(1, caller, model, self.times.before_decoding(model), self._capacity())

    def expected_wait(self) -> float:
        """Seconds that one more image, of a client that has none here, would wait."""
        return self._admission.expected_wait("", self.times.before_decoding(), self._capacity())

    async def submit(self, work: Work, slot: Slot) -> Done:
        """Wait for a turn and run. DeadlineExceeded: not started by the caller's deadline. Cancelling this
        takes the image out of the queue.
        """
        if not self.ready:
            lost = "the worker was lost before this image could run; retry shortly"
            raise EngineUnavailable(_STOPPING if self._stopped else lost)
        now, caller = self._clock(), slot.request.caller
        if now >= caller.deadline:
            self._metrics.drops.labels(work.model, "deadline").inc()
            raise DeadlineExceeded(
                f"decoding ended past the deadline of {caller.limit:g} s; the image was not run"
            )
        seconds = self.times.seconds(work.shape_key)
        slot.expect(seconds)
        entry = _Entry(work, slot, now, work.bucket, seconds)
        timer = asyncio.get_running_loop().call_later(caller.deadline - now, self._expire, entry)
        self._queue.add(entry)
        self._arrival.set()
        try:
            return await entry.done
        except asyncio.CancelledError:
            if entry in self._queue:
                self._queue.remove(entry)
                self._metrics.drops.labels(work.model, slot.cancelled_because).inc()
            raise
        finally:
            timer.cancel()
            slot.release()

    async def _feed(self, engine: Engine) -> None:
        while True:
            await engine.ready.wait()
            if batch := self._take(engine):
                await self._run(engine, batch)
            else:
                self._arrival.clear()
                await self._arrival.wait()

    def _take(self, engine: Engine) -> list[_Entry]:
        """The image whose turn it is and those of its bucket, in turn, as many as one batch may hold."""
        batch: list[_Entry] = []
        limit, bucket = 1, None
        while len(batch) < limit and (entry := self._queue.take(bucket)) is not None:
            if not self._in_time(entry, alone=not batch and not len(self._queue)):
                self._time_out(entry)
                continue
            if not batch:
                limit, bucket = self._batch_limit(engine, entry), entry.bucket
            batch.append(entry)
            entry.slot.release()
        return batch

    def _in_time(self, entry: _Entry, *, alone: bool) -> bool:
        """Whether to begin it. Never past its deadline. Nor while others wait, if it cannot be done by then,
        because its client would have left before the answer; alone it may prove the estimate wrong.
        """
        left = entry.deadline - self._clock()
        return left > 0 and (alone or left >= entry.seconds)

    def _batch_limit(self, engine: Engine, first: _Entry) -> int:
        limit = self._limits[engine.device].allowed(first.work.shape_key)
        if engine.device.startswith("cpu"):
            limit = min(limit, max(1, int(self._settings.batch_work_seconds / max(first.seconds, 1e-6))))
        return limit

    async def _run(self, engine: Engine, batch: list[_Entry]) -> None:
        """Run a batch and answer each of its images, whatever happens."""
        try:
            await self._execute(engine, batch)
        except OutOfMemory as error:
            self._metrics.out_of_memory.labels(engine.device).inc()
            await self._halve(engine, batch, error)
        except RuntimeFailure as error:
            await self._halve(engine, batch, error)
        except EngineUnavailable as error:
            self._metrics.drops.labels(batch[0].work.model, "worker_lost").inc(len(batch))
            _fail(batch, error)
        except Exception as error:
            log(logging.ERROR, "batch failed", exc=error, device=engine.device)
            _fail(batch, error)
        except asyncio.CancelledError:
            _fail(batch, EngineUnavailable(_STOPPING))
            raise

    async def _execute(self, engine: Engine, batch: list[_Entry]) -> None:
        started = self._clock()
        key = batch[0].work.shape_key
        self._running_until[engine.device] = started + self.times.seconds(key) * len(batch)
        self._metrics.batch_size.labels(batch[0].work.model, engine.device).observe(len(batch))
        try:
            reply = await engine.run(call_for([entry.work for entry in batch]))
        finally:
            self._running_until.pop(engine.device, None)
        elapsed = self._clock() - started
        self.times.observe(key, len(batch), elapsed)
        self._limits[engine.device].fitted(key, len(batch))
        for index, entry in enumerate(batch):
            if not entry.done.done():
                queued = started - entry.submitted
                entry.done.set_result(
                    Done(reply.outputs, index, queued, reply.seconds, elapsed - reply.seconds)
                )

    async def _halve(self, engine: Engine, batch: list[_Entry], error: RuntimeFailure) -> None:
        """The runtime refused the batch: find the image that it cannot take, or the size that it can."""
        key = batch[0].work.shape_key
        if len(batch) == 1:
            log(logging.ERROR, "runtime failed", device=engine.device, model=key[0], reason=str(error))
            _fail(batch, error)
            return
        if isinstance(error, OutOfMemory):
            limits = self._limits[engine.device]
            limits.refused(key, len(batch))
            log(
                logging.WARNING,
                "batch did not fit",
                device=engine.device,
                model=key[0],
                images=len(batch),
                limit=limits.allowed(key),
            )
        middle = len(batch) // 2
        try:
            for half in (batch[:middle], batch[middle:]):
                here = [entry for entry in half if not entry.done.done()]  # some clients left meanwhile
                for entry in here:
                    if entry.deadline <= self._clock():
                        self._time_out(entry)
                here = [entry for entry in here if not entry.done.done()]
                if here:
                    await self._run(engine, here)
        finally:
            _fail(batch, EngineUnavailable(_STOPPING))  # only those that never ran

    def _expire(self, entry: _Entry) -> None:
        if entry in self._queue:  # else it runs, and will be answered
            self._queue.remove(entry)
            self._time_out(entry)

    def _time_out(self, entry: _Entry) -> None:
        self._metrics.drops.labels(entry.work.model, "deadline").inc()
        waited, limit = self._clock() - entry.submitted, entry.request.caller.limit
        message = f"the image waited {waited:.1f} s in the queue and was not run (limit {limit:g} s)"
        entry.slot.release()
        _fail([entry], DeadlineExceeded(message))

    def _engine_lost(self, engine: Engine) -> None:
        if not self.ready:
            self._fail_all(
                f"the worker of device {engine.device} was lost and is being restarted; retry shortly"
            )

    def _fail_all(self, reason: str) -> None:
        waiting = list(self._queue)
        for entry in waiting:
            self._queue.remove(entry)
            self._metrics.drops.labels(entry.work.model, "worker_lost").inc()
        _fail(waiting, EngineUnavailable(reason))

    def _require_engine(self, count: int, model: str) -> None:
        if not self.ready:
            self._metrics.drops.labels(model, "unavailable").inc(count)
            states = ", ".join(f"{engine.device} is {engine.state}" for engine in self._engines)
            lost = f"no worker is ready ({states}); retry shortly"
            raise EngineUnavailable(_STOPPING if self._stopped else lost)

    def _capacity(self) -> Capacity:
        now = self._clock()
        busy = sum(max(0.0, until - now) for until in self._running_until.values())
        return Capacity(max(1, sum(engine.is_ready for engine in self._engines)), busy)


def _fail(entries: list[_Entry], error: Exception) -> None:
    for entry in entries:
        if not entry.done.done():
            entry.done.set_exception(error)
