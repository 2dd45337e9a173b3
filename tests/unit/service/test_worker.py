"""What a worker does with the errors of its runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from hindsight.errors import DeviceLost, OutOfMemory, RuntimeFailure
from hindsight.runtime import Runtime
from service.blocks import OwnedBlock, write_arrays
from service.worker import _serve


class Failing:
    """A runtime that fails as asked, and remembers its end."""

    def __init__(self, error: Exception) -> None:
        self._error, self.closed = error, False

    def detect(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        raise self._error

    def close(self) -> None:
        self.closed = True


def served(error: Exception) -> tuple[Failing, list[dict[str, Any]]]:
    """A worker's answers to one batch, after which the server closes the pipe."""
    runtime = Failing(error)
    server, worker = Pipe()
    inputs, replies = OwnedBlock(), OwnedBlock()
    try:
        inputs.ensure(1000)
        replies.ensure(1000)
        request = {
            "id": 1,
            "model": "m",
            "operation": "detect",
            "block": inputs.name,
            "layout": write_arrays(inputs.buffer, {"x": np.zeros(3, np.float32)}),
            "reply_block": replies.name,
        }
        server.send_bytes(json.dumps(request).encode())
        _serve(_AtItsEnd(worker), {"m": cast(Runtime, runtime)})
        found = []
        while server.poll():
            found.append(json.loads(server.recv_bytes()))
        return runtime, found
    finally:
        inputs.close()
        replies.close()
        server.close()
        worker.close()


class _AtItsEnd(Connection):
    """The worker's end of a pipe whose other end closes when it has been read empty."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def recv_bytes(self, maxlength: int | None = None) -> bytes:
        if not self._inner.poll():
            raise EOFError
        data: bytes = self._inner.recv_bytes()
        return data

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None) -> None:
        self._inner.send_bytes(buf)

    def __del__(self) -> None:
        pass


def test_a_refused_batch_is_answered_and_the_worker_lives() -> None:
    for error, code in [
        (RuntimeFailure("odd"), "runtime-failure"),
        (OutOfMemory("odd"), "out-of-memory"),
        (MemoryError("odd"), "out-of-memory"),
        (KeyError("odd"), "runtime-failure"),
    ]:
        runtime, [reply] = served(error)
        assert not reply["ok"] and "odd" in reply["error"] and reply["code"] == code
        assert runtime.closed


def test_a_worker_without_its_device_ends_unanswered(caplog: pytest.LogCaptureFixture) -> None:
    runtime, replies = served(DeviceLost("illegal address"))
    assert replies == [] and not runtime.closed  # freeing would only fail once more
    assert "illegal address" in caplog.text
