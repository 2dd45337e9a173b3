"""An engine: one device's worker process and the task that keeps one alive.

A worker that dies, or stays silent past the hang timeout, is killed and replaced; the batch it had fails with
EngineUnavailable (503) and the server goes on.
"""

import asyncio
import json
import logging
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Literal

from hindsight.errors import RuntimeFailure, errors_by_code
from service.blocks import OwnedBlock, packed_size, read_arrays, write_arrays
from service.errors import EngineUnavailable
from service.logs import log
from service.metrics import Metrics
from service.settings import Settings
from service.worker import Arrays, WorkerSpec, worker_main

State = Literal["starting", "ready", "restarting", "failed", "stopped"]
_MAX_RESTART_DELAY = 30.0
_HEALTHY_AFTER = 30.0
_LARGE_COPY = 4 * 2**20


@dataclass(frozen=True)
class Call:
    """One batch for one model. `reply_bytes`: the most its outputs can take."""

    model: str
    operation: Literal["detect", "rescore"]
    inputs: Arrays
    reply_bytes: int


@dataclass(frozen=True)
class Reply:
    """The outputs of a batch and the seconds the runtime itself took."""

    outputs: Arrays
    seconds: float


class Engine:
    """One device. `start()` supervises in the background; `run()` serves one batch at a time."""

    def __init__(self, spec: WorkerSpec, settings: Settings, metrics: Metrics) -> None:
        self.spec = spec
        self.device = spec.device
        self.state: State = "starting"
        self.failure: str | None = None
        """Why the last attempt to start a worker failed."""
        self.ready = asyncio.Event()
        self.on_ready: Callable[[Engine, dict[str, float]], None] = lambda engine, seconds: None
        self.on_lost: Callable[[Engine], None] = lambda engine: None
        self.on_start_failed: Callable[[Engine, str], None] = lambda engine, reason: None
        self._settings = settings
        self._metrics = metrics
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()  # None: the pipe closed
        self._lost = asyncio.Event()
        self._supervisor: asyncio.Task[None] | None = None
        self._request_block, self._reply_block = OwnedBlock(), OwnedBlock()
        self._serial = 0

    @property
    def is_ready(self) -> bool:
        return self.ready.is_set()

    def start(self) -> None:
        """Begin to supervise; returns at once."""
        self._supervisor = asyncio.create_task(self._supervise(), name=f"supervise {self.device}")

    async def stop(self) -> None:
        """End the worker and its supervision."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        await self._discard_worker()
        self.state = "stopped"
        self._request_block.close()
        self._reply_block.close()

    async def run(self, call: Call) -> Reply:
        """Run one batch. RuntimeFailure, OutOfMemory: the runtime refused it, the worker lives.
        EngineUnavailable: the worker is lost.
        """
        connection = self._connection
        if not self.is_ready or connection is None:
            raise EngineUnavailable(f"the worker of device {self.device} is {self.state}; retry shortly")
        self._serial += 1
        try:
            layout = await self._write_inputs(call)
        except OSError as error:
            raise EngineUnavailable(
                f"no shared memory left for a batch ({error.strerror}); retry shortly"
            ) from error
        request = {
            "id": self._serial,
            "model": call.model,
            "operation": call.operation,
            "block": self._request_block.name,
            "layout": layout,
            "reply_block": self._reply_block.name,
        }
        try:
            connection.send_bytes(json.dumps(request).encode())
            async with asyncio.timeout(self._settings.hang_timeout):
                reply = await self._messages.get()
        except TimeoutError:  # an OSError too, so it stands first
            self._declare_lost("hang")
            raise EngineUnavailable(
                f"the worker of device {self.device} did not answer within {self._settings.hang_timeout:g} s "
                "and is being restarted; retry shortly"
            ) from None
        except OSError:
            reply = None
        except asyncio.CancelledError:
            self._declare_lost("cancelled")  # its answer would otherwise be taken for the next batch's
            raise
        if reply is None:
            self._declare_lost("crash")
            raise EngineUnavailable(
                f"the worker of device {self.device} died and is being restarted; retry shortly"
            )
        if not reply["ok"]:
            raise _failure(str(reply["code"]), str(reply["error"]))
        return Reply(
            read_arrays(self._reply_block.buffer, reply["layout"], copy=True), float(reply["seconds"])
        )

    async def _write_inputs(self, call: Call) -> list[list[Any]]:
        def write() -> list[list[Any]]:
            self._request_block.ensure(size)
            self._reply_block.ensure(call.reply_bytes)
            return write_arrays(self._request_block.buffer, call.inputs)

        size = packed_size(call.inputs)
        if size <= _LARGE_COPY:
            return write()
        writing = asyncio.ensure_future(asyncio.to_thread(write))
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            await asyncio.wait({writing})  # it must not run on in memory that is about to be given back
            raise

    async def _supervise(self) -> None:
        delay = self._settings.restart_delay
        while True:
            started = time.monotonic()
            try:
                seconds = await self._start_worker()
            except (
                EngineUnavailable,
                OSError,
            ) as error:  # OSError: no room for a process
                self.failure, self.state = str(error), "failed"
                log(logging.ERROR, "worker did not start", device=self.device, reason=str(error))
                await self._discard_worker()
                self.on_start_failed(self, str(error))
            else:
                self.failure, self.state = None, "ready"
                self._metrics.worker_ready.labels(self.device).set(1)
                self.ready.set()
                assert self._process is not None
                log(
                    logging.INFO,
                    "worker ready",
                    device=self.device,
                    pid=self._process.pid,
                    warm_up_seconds=seconds,
                )
                self.on_ready(self, seconds)
                await self._lost.wait()
                await self._discard_worker()
                self.state = "restarting"
                if time.monotonic() - started > _HEALTHY_AFTER:
                    delay = self._settings.restart_delay
            await asyncio.sleep(delay)
            delay = min(delay * 2, _MAX_RESTART_DELAY)

    async def _start_worker(self) -> dict[str, float]:
        """Spawn a worker and wait until it is warm; -> seconds per image by model. EngineUnavailable when it
        fails.
        """
        self._lost.clear()
        self._messages = asyncio.Queue()
        context = multiprocessing.get_context("spawn")
        connection, worker_end = context.Pipe(duplex=True)
        process = context.Process(
            target=worker_main,
            args=(worker_end, self.spec.to_json()),
            daemon=True,
            name=f"hindsight {self.device}",
        )
        self._process, self._connection = process, connection
        try:
            await asyncio.to_thread(process.start)
        finally:
            worker_end.close()  # ours must be closed, or the worker's death would not close the pipe
        asyncio.get_running_loop().add_reader(connection.fileno(), self._receive, connection)
        try:
            async with asyncio.timeout(self._settings.start_timeout):
                message = await self._messages.get()
        except TimeoutError:
            raise EngineUnavailable(
                f"the worker was not up within {self._settings.start_timeout:g} s (HINDSIGHT_START_TIMEOUT)"
            ) from None
        if message is None:
            raise EngineUnavailable("the worker died while loading")
        if not message["ready"]:
            raise EngineUnavailable(str(message["error"]))
        return {str(name): float(seconds) for name, seconds in message["seconds"].items()}

    def _receive(self, connection: Connection) -> None:
        """The pipe is readable: pass its message on; at its end declare the worker lost, idle or not."""
        if connection.closed:
            return
        try:
            message = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(connection.fileno())
            self._messages.put_nowait(None)
            if self.is_ready:
                self._declare_lost("crash")
            return
        self._messages.put_nowait(message)

    def _declare_lost(self, cause: str) -> None:
        if not self.is_ready:
            return
        self.ready.clear()
        self.state = "restarting"
        self._metrics.worker_ready.labels(self.device).set(0)
        self._metrics.worker_restarts.labels(self.device, cause).inc()
        log(
            logging.ERROR,
            "worker lost",
            device=self.device,
            cause=cause,
            pid=self._process and self._process.pid,
        )
        self._lost.set()
        self.on_lost(self)

    async def _discard_worker(self) -> None:
        """Kill and reap; safe on a worker that is already gone."""
        self.ready.clear()
        self._metrics.worker_ready.labels(self.device).set(0)
        connection, process = self._connection, self._process
        self._connection = self._process = None
        if connection is not None and not connection.closed:
            asyncio.get_running_loop().remove_reader(connection.fileno())
            connection.close()
        if process is not None and process.pid is not None:
            process.kill()
            await asyncio.to_thread(process.join, 10)


def _failure(code: str, text: str) -> RuntimeFailure:
    """The error that the worker met, as far as it is one of a runtime."""
    kind = errors_by_code().get(code, RuntimeFailure)
    return kind(text) if issubclass(kind, RuntimeFailure) else RuntimeFailure(text)
