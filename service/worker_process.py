"""One worker process as the server sees it: spawned, watched while it loads, fed through its pipe, killed.
Never used twice; engine.py replaces it.
"""

import asyncio
import contextlib
import json
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
from service.progress import activity_of
from service.settings import Settings
from service.worker import Arrays, WorkerSpec, worker_main

Cause = Literal["crash", "hang", "cancelled"]
_LARGE_COPY = 4 * 2**20
_LEAST_LOAD = 0.02
"""Share of one core that a worker uses at least while it loads; below, it hangs."""


class StartFailed(Exception):
    """The worker did not get to the point where it could serve. The message is for operators and clients."""


@dataclass(frozen=True)
class Call:
    """One batch for one model, named by `Artifact.identity`. `reply_bytes`: the most its outputs can take."""

    model: str
    operation: Literal["detect", "rescore"]
    inputs: Arrays
    reply_bytes: int


@dataclass(frozen=True)
class Reply:
    """The outputs of a batch and the seconds the runtime itself took."""

    outputs: Arrays
    seconds: float


class WorkerProcess:
    """`start()` once, `run()` one batch at a time, `kill()` in every case.

    on_lost: called once, when a worker that had started dies, hangs or is left in the middle of a batch; not
    when it is killed.
    """

    def __init__(
        self, spec: WorkerSpec, settings: Settings, on_lost: "Callable[[WorkerProcess, Cause], None]"
    ) -> None:
        self.spec = spec
        self.step = "starting"
        """What it does while it loads."""
        self.seconds: dict[str, float] = {}
        """Seconds one image took at the warm-up, by model."""
        self.lost = asyncio.Event()
        self._settings = settings
        self._on_lost = on_lost
        self._started = False
        self._spawning: asyncio.Future[None] | None = None
        self._ending: asyncio.Future[None] | None = None
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()  # None: the pipe closed
        self._request_block, self._reply_block = OwnedBlock(), OwnedBlock()
        self._writing = asyncio.Lock()
        self._serial = 0

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def can_run(self, model: str) -> bool:
        """Whether a batch of this model may be given to it."""
        lives = self._started and self._ending is None and not self.lost.is_set()
        return lives and model in self.spec.artifacts

    async def start(self) -> None:
        """Spawn it and wait until it is warm. StartFailed: it is not, and has been killed."""
        try:
            await self._spawn()
            self.seconds = await self._loaded()
        except OSError as error:  # no room for a process
            await self.kill()
            raise StartFailed(str(error)) from error
        except BaseException:
            await self.kill()
            raise
        self._started = True

    async def run(self, call: Call) -> Reply:
        """Run one batch. RuntimeFailure, OutOfMemory: the runtime refused it, the worker lives.
        EngineUnavailable: the worker is lost.
        """
        device, limit = self.spec.device, self._settings.hang_timeout
        connection = self._connection
        if connection is None or not self.can_run(call.model):
            raise EngineUnavailable(f"the worker of device {device} is gone; retry shortly")
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
            async with asyncio.timeout(limit):
                reply = await self._messages.get()
        except TimeoutError:  # an OSError too, so it stands first
            self._lose("hang")
            raise EngineUnavailable(
                f"the worker of device {device} did not answer within {limit:g} s "
                "and is being restarted; retry shortly"
            ) from None
        except OSError:
            reply = None
        except asyncio.CancelledError:
            self._lose("cancelled")  # its answer would otherwise be taken for the next batch's
            raise
        if reply is None:
            self._lose("crash")
            raise EngineUnavailable(
                f"the worker of device {device} died and is being restarted; retry shortly"
            )
        if not reply["ok"]:
            raise _failure(str(reply["code"]), str(reply["error"]))
        return Reply(
            read_arrays(self._reply_block.buffer, reply["layout"], copy=True), float(reply["seconds"])
        )

    async def kill(self) -> None:
        """Kill, reap and free everything it had; may be called at any time, and again."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        if self._spawning is not None:  # a process that is only half there cannot be killed
            await asyncio.wait({self._spawning})
            self._spawning.exception()
        if self._connection is not None:
            if not self._connection.closed:
                asyncio.get_running_loop().remove_reader(self._connection.fileno())
            self._connection.close()
        self._messages.put_nowait(None)  # for a batch that is under way
        async with self._writing:
            self._request_block.close()
            self._reply_block.close()
        process, self._process = self._process, None
        if process is not None and process.pid is not None:
            process.kill()
            await asyncio.to_thread(process.join, 10)
            with contextlib.suppress(ValueError):  # it would not die: the kernel holds it
                process.close()

    async def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        connection, worker_end = context.Pipe(duplex=True)
        process = context.Process(
            target=worker_main,
            args=(worker_end, self.spec.to_json()),
            daemon=True,
            name=f"hindsight {self.spec.device}",
        )

        def launch() -> None:
            try:
                process.start()
            finally:
                worker_end.close()  # ours must be closed, or the worker's death would not close the pipe

        self._process, self._connection = process, connection
        self._spawning = asyncio.ensure_future(asyncio.to_thread(launch))
        await asyncio.shield(self._spawning)
        asyncio.get_running_loop().add_reader(connection.fileno(), self._receive, connection)

    async def _loaded(self) -> dict[str, float]:
        """Wait until it is warm; -> seconds per image by model. StartFailed when it says so, dies or shows no
        progress: neither a next step, nor processor time used, nor anything read.
        """
        assert self.pid is not None
        patience, most = self._settings.start_timeout, self._settings.start_limit
        started = progressed = time.monotonic()
        activity = activity_of(self.pid)
        while True:
            try:
                async with asyncio.timeout(min(1.0, patience / 4, most / 4)):
                    message = await self._messages.get()
            except TimeoutError:
                now, current = time.monotonic(), activity_of(self.pid)
                if current.is_at_work_since(activity, _LEAST_LOAD * patience):
                    activity, progressed = current, now
                elif now - progressed > patience:
                    raise StartFailed(
                        f"the worker showed no progress for {patience:g} s while {self.step} "
                        "(HINDSIGHT_START_TIMEOUT)"
                    ) from None
                if now - started > most:
                    raise StartFailed(
                        f"the worker was not up within {most:g} s, still {self.step} (HINDSIGHT_START_LIMIT)"
                    ) from None
                continue
            if message is None:
                raise StartFailed(f"the worker died while {self.step}{await self._exit_status()}")
            if "step" in message:
                self.step, progressed = str(message["step"]), time.monotonic()
            elif not message["ready"]:
                raise StartFailed(f"{message['error']} (while {self.step})")
            else:
                self.step = "serving"
                return {str(name): float(each) for name, each in message["seconds"].items()}

    async def _exit_status(self) -> str:
        assert self._process is not None
        await asyncio.to_thread(self._process.join, 1)
        code = self._process.exitcode
        return (
            "" if code is None else f" (killed by signal {-code})" if code < 0 else f" (exit status {code})"
        )

    def _receive(self, connection: Connection) -> None:
        """The pipe is readable: pass its message on; at its end the worker is lost, idle or not."""
        if connection.closed:
            return
        try:
            message = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(connection.fileno())
            self._messages.put_nowait(None)
            self._lose("crash")
            return
        self._messages.put_nowait(message)

    def _lose(self, cause: Cause) -> None:
        if self._started and self._ending is None and not self.lost.is_set():
            self.lost.set()
            self._on_lost(self, cause)

    async def _write_inputs(self, call: Call) -> list[list[Any]]:
        def write() -> list[list[Any]]:
            self._request_block.ensure(size)
            self._reply_block.ensure(call.reply_bytes)
            return write_arrays(self._request_block.buffer, call.inputs)

        size = packed_size(call.inputs)
        async with self._writing:  # the memory is not given back meanwhile
            if self._ending is not None:
                raise EngineUnavailable(f"the worker of device {self.spec.device} is gone; retry shortly")
            if size <= _LARGE_COPY:
                return write()
            writing = asyncio.ensure_future(asyncio.to_thread(write))
            try:
                return await asyncio.shield(writing)
            except asyncio.CancelledError:
                await asyncio.wait({writing})
                raise


def _failure(code: str, text: str) -> RuntimeFailure:
    """The error that the worker met, as far as it is one of a runtime."""
    kind = errors_by_code().get(code, RuntimeFailure)
    return kind(text) if issubclass(kind, RuntimeFailure) else RuntimeFailure(text)
