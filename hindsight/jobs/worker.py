"""A worker process: its own model, its own threads, one picture at a time.

Messages are JSON texts through the pipe, a frame's pixels follow their message as they are. The worker ends
when the pipe closes or its parent dies, so none outlives its job.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from hindsight.api import Detector
from hindsight.artifact import load_artifact
from hindsight.errors import ArtifactError, DeviceLost, HindsightError
from hindsight.jobs.entries import Problem
from hindsight.jobs.work import Reply, Task, look_at
from hindsight.runtime import open_runtime

__all__ = ["WorkerSpec", "receive_reply", "send_task", "worker_main"]

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker loads and asks of it. identity: Artifact.identity, of the model in `folder`."""

    folder: str
    identity: str
    backend: str
    device: str
    threads: int | None
    options: dict[str, Any]


def worker_main(connection: Connection, spec_json: str) -> None:
    """Entry point of the process: load, say so, then answer until the pipe closes."""
    # Ctrl-C and a closed terminal reach the whole group; the job decides when its workers end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _die_with_parent()
    spec = WorkerSpec(**json.loads(spec_json))
    try:
        detector = _load(spec)
    except HindsightError as error:
        _send(connection, {"ready": False, "code": error.code, "detail": str(error)})
        return
    except Exception as error:  # a broken installation: the job says why instead of trying for ever
        _send(
            connection,
            {"ready": False, "code": HindsightError.code, "detail": f"{type(error).__name__}: {error}"},
        )
        return
    _send(connection, {"ready": True})
    with detector:
        _answer(connection, detector, spec.options)


def send_task(connection: Connection, task: Task) -> None:
    """The job's side of `_receive_task`. Raises OSError where the worker is gone."""
    hw = None if task.pixels is None else task.pixels.shape[:2]
    _send(connection, {"number": task.number, "file": task.file, "hw": hw, "target": task.target})
    if task.pixels is not None:
        connection.send_bytes(np.ascontiguousarray(task.pixels).data.cast("B"))


def receive_reply(connection: Connection, task: Task) -> Reply:
    """Of the task that the worker was given. Raises OSError, EOFError where it is gone."""
    message = json.loads(connection.recv_bytes())
    problem, size = message["problem"], message["size"]
    return Reply(
        task,
        None if size is None else (size[0], size[1]),
        message["detections"],
        None if problem is None else Problem(**problem),
    )


def _die_with_parent() -> None:
    """At once, where the system can do that (Linux); elsewhere a worker ends behind its picture."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _load(spec: WorkerSpec) -> Detector:
    artifact = load_artifact(Path(spec.folder))
    if artifact.identity != spec.identity:  # a worker that is replaced may start hours after the others
        raise ArtifactError(
            f"{spec.folder}: the model was changed while the job ran: start over with --restart"
        )
    return Detector(artifact, open_runtime(spec.backend, artifact, device=spec.device, threads=spec.threads))


def _answer(connection: Connection, detector: Detector, options: dict[str, Any]) -> None:
    classes = detector.artifact.manifest.classes
    while True:
        try:
            task = _receive_task(connection)
            reply = look_at(task, lambda image: detector.detect(image, **options), classes)
            problem = reply.problem
            _send(
                connection,
                {
                    "size": reply.size,
                    "detections": reply.detections,
                    "problem": None if problem is None else problem.to_json(),
                },
            )
        except (EOFError, OSError):  # the job has ended
            return
        if problem is not None and problem.code == DeviceLost.code:
            return  # only a new process gets over it


def _receive_task(connection: Connection) -> Task:
    message = json.loads(connection.recv_bytes())
    pixels = None
    if message["hw"] is not None:
        height, width = message["hw"]
        pixels = np.frombuffer(connection.recv_bytes(), np.uint8).reshape(height, width, 3)
    return Task(message["number"], message["file"], pixels, message["target"])


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message, separators=(",", ":")).encode())
