"""The same model behind other servers: what benchmarks/serving.py compares ours with.

    python -m benchmarks.serving_peers fastapi --port 9000 [--model cells] [--backend sleep:100]
    python -m benchmarks.serving_peers bare

benchmarks/serving_litserve.py has the third.

Every one of them does with a photo what ours does, with the same functions of the library and the same
session of ONNX Runtime: decode, letterbox, run, split, JSON. What differs is the server around it, each as
its own documentation has it, with its defaults. `bare` has none: it reads lines such as "pipeline 20" from
stdin, runs that often in a plain loop, and writes the seconds of each as a JSON list.

Needs hindsight's serving dependencies, nothing else of this repository.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

from hindsight.artifact import find_artifact
from hindsight.decode import decode_image
from hindsight.inputs import detect_inputs
from hindsight.options import DetectOptions
from hindsight.postprocess import split_detections
from hindsight.preprocess import letterbox
from hindsight.runtime import open_runtime


class Detector:
    """A photo's bytes in, the document of its detections out; safe to call from many threads.

    The runtime that only waits takes one photo at a time, as a model on one device does; ONNX Runtime takes
    as many calls as come, as its users let it.
    """

    def __init__(self, model: str, backend: str) -> None:
        self.artifact = find_artifact(model)
        self.runtime = open_runtime(backend, self.artifact)
        self._options = DetectOptions.resolve(self.artifact.manifest)
        self._turn = threading.Lock() if backend.startswith("sleep:") else contextlib.nullcontext()

    def inputs(self, photo: bytes) -> tuple[Any, dict[str, Any]]:
        boxed = letterbox(decode_image(photo), self.artifact.manifest.resize)
        return boxed, detect_inputs([boxed], [self._options])

    def detect(self, photo: bytes) -> dict[str, Any]:
        boxed, inputs = self.inputs(photo)
        with self._turn:
            outputs = self.runtime.detect(inputs)
        manifest = self.artifact.manifest
        found = split_detections(outputs, 0, boxed, manifest, self._options)
        height, width = found.image_hw
        return {
            "model": manifest.name,
            "version": manifest.version,
            "image": {"width": width, "height": height},
            "detections": found.to_records(),
        }


def serve_fastapi(model: str, backend: str, port: int) -> None:
    """A plain function as handler, which FastAPI runs on its thread pool."""
    import uvicorn
    from fastapi import Depends, FastAPI, Request

    detector = Detector(model, backend)
    app = FastAPI()

    async def photo_of(request: Request) -> bytes:
        return await request.body()

    def detect(photo: bytes = Depends(photo_of)) -> dict[str, Any]:
        return detector.detect(photo)

    # Names of this function, which FastAPI could not look up as text.
    photo_of.__annotations__ = {"request": Request, "return": bytes}
    detect.__annotations__ = {"photo": bytes, "return": dict[str, Any]}
    app.post("/detect")(detect)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def run_bare(model: str, backend: str) -> None:
    """The loop without a server. "model N": the runtime alone; "pipeline N": photo to JSON."""
    detector = Detector(model, backend)
    photo = detector.artifact.samples[0].read_bytes()
    _, inputs = detector.inputs(photo)
    programs: dict[str, Callable[[], object]] = {
        "model": lambda: detector.runtime.detect(inputs),
        "pipeline": lambda: json.dumps(detector.detect(photo)).encode(),
    }
    for program in programs.values():
        program()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        name, count = line.split()
        seconds = []
        for _ in range(int(count)):
            start = time.perf_counter()
            programs[name]()
            seconds.append(time.perf_counter() - start)
        sys.stdout.write(json.dumps(seconds) + "\n")
        sys.stdout.flush()


def main(
    kind: Annotated[str, typer.Argument(help="fastapi or bare.")],
    port: Annotated[int, typer.Option(help="Where to listen.")] = 9000,
    model: Annotated[str, typer.Option(help="Name or folder of the model.")] = "cells",
    backend: Annotated[str, typer.Option(help="Runtime: onnxruntime, or sleep:MS.")] = "onnxruntime",
) -> None:
    """Serve until stopped."""
    if kind == "bare":
        run_bare(model, backend)
    elif kind == "fastapi":
        serve_fastapi(model, backend, port)
    else:
        raise typer.BadParameter(f"{kind!r} is neither fastapi nor bare")


if __name__ == "__main__":
    typer.run(main)
