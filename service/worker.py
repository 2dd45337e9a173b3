"""The worker process: owns the runtimes of one device, answers one batch at a time, knows nothing of HTTP.

Messages are JSON through the pipe, tensors lie in shared memory (blocks.py). The worker ends when the pipe
closes, so no worker outlives its server.
"""

import json
import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hindsight.artifact import Artifact, ResizeRule, load_artifact
from hindsight.errors import DeviceLost, HindsightError, OutOfMemory, RuntimeFailure
from hindsight.runtime import Runtime, open_runtime
from service.blocks import AttachedBlock, read_arrays, write_arrays

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class WorkerSpec:
    """What a worker loads: artifact folders by model name, and where to run them."""

    artifacts: dict[str, str]
    backend: str
    device: str
    threads: int | None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "WorkerSpec":
        return cls(**json.loads(text))


def worker_main(connection: Connection, spec_json: str) -> None:
    """Entry point of the process: load, warm up, say so, then serve until the pipe closes."""
    # Ctrl-C and a service manager's SIGTERM reach the whole group; the server decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    spec = WorkerSpec.from_json(spec_json)
    try:
        runtimes, seconds = _load(spec)
    except HindsightError as error:
        _send(connection, {"ready": False, "error": str(error)})
        return
    except Exception as error:
        _send(connection, {"ready": False, "error": f"{type(error).__name__}: {error}"})
        return
    _send(connection, {"ready": True, "seconds": seconds})
    _serve(connection, runtimes)


def _load(spec: WorkerSpec) -> tuple[dict[str, Runtime], dict[str, float]]:
    """Open and warm every runtime; -> runtimes, and the seconds one image took (model name -> seconds)."""
    runtimes: dict[str, Runtime] = {}
    seconds: dict[str, float] = {}
    for name, folder in spec.artifacts.items():
        artifact = load_artifact(
            Path(folder), verify=False
        )  # the server verified the hashes before it started us
        runtime = open_runtime(spec.backend, artifact, device=spec.device, threads=spec.threads)
        runtimes[name] = runtime
        seconds[name] = _warm_up(runtime, artifact)
    return runtimes, seconds


def _warm_up(runtime: Runtime, artifact: Artifact) -> float:
    """Run both graphs on a blank 4:3 picture; -> seconds of the second detection."""
    images, sizes = blank_input(artifact.manifest.resize)
    defaults = artifact.manifest.defaults
    inputs: Arrays = {
        "images": images,
        "image_sizes": sizes,
        "class_threshold": np.array([defaults.class_threshold], np.float32),
        "score_threshold": np.array([defaults.score_threshold], np.float32),
        "iou_weight": np.array([defaults.iou_weight], np.float32),
        "nms_threshold": np.array([defaults.nms_threshold], np.float32),
    }
    runtime.detect(inputs)
    start = time.perf_counter()
    runtime.detect(inputs)
    seconds = time.perf_counter() - start
    if artifact.rescore_path is not None:
        runtime.rescore(
            {
                "images": images,
                "image_sizes": sizes,
                "boxes": np.array([[[0, 0, 16, 16]]], np.float32),
                "num_boxes": np.array([1], np.int64),
            }
        )
    return seconds


def blank_input(rule: ResizeRule) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A black landscape 4:3 input of this rule: images [1, H, W, 3], image_sizes [1, 2]."""
    short = min(rule.short_side, rule.long_side)
    long = min(rule.long_side, short * 4 // 3)
    height, width = (-(-side // rule.pad_multiple) * rule.pad_multiple for side in (short, long))
    return np.zeros((1, height, width, 3), np.uint8), np.array([[short, long]], np.int64)


def _serve(connection: Connection, runtimes: Mapping[str, Runtime]) -> None:
    request_block, reply_block = AttachedBlock(), AttachedBlock()
    while True:
        try:
            request = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            break
        runtime = runtimes[request["model"]]
        operation: Callable[[Mapping[str, NDArray[Any]]], Arrays]
        operation = runtime.detect if request["operation"] == "detect" else runtime.rescore
        inputs: Arrays = {}
        try:
            inputs = read_arrays(request_block.attach(request["block"]), request["layout"], copy=False)
            start = time.perf_counter()
            outputs = operation(inputs)
            seconds = time.perf_counter() - start
            layout = write_arrays(reply_block.attach(request["reply_block"]), outputs)
            reply = {"id": request["id"], "ok": True, "seconds": seconds, "layout": layout}
        except DeviceLost as error:
            # Without an answer: the server takes the worker for crashed, and starts another.
            logging.getLogger("hindsight.worker").critical("the worker ends: %s", error)
            return
        except HindsightError as error:
            reply = {"id": request["id"], "ok": False, "error": str(error), "code": error.code}
        except Exception as error:
            kind = OutOfMemory if isinstance(error, MemoryError) else RuntimeFailure
            text = f"{type(error).__name__}: {error}"
            reply = {"id": request["id"], "ok": False, "error": text, "code": kind.code}
        inputs.clear()
        if not _send(connection, reply):
            break
    for runtime in runtimes.values():
        runtime.close()


def _send(connection: Connection, message: dict[str, Any]) -> bool:
    """False when the server is gone."""
    try:
        connection.send_bytes(json.dumps(message).encode())
    except OSError:
        return False
    return True
