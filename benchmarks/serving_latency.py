"""Latency of POST /detect: photos one at a time over one kept-alive connection, and where the time goes.

    python benchmarks/serving_latency.py --model cells --photos FOLDER --count 200

Starts a server of its own, sends warm-up photos, then `count` photos, and writes a JSON file into
benchmarks/results/. Stages come from the server's Server-Timing header; the share of NMS inside the model
comes from an ONNX Runtime profile of the same graph.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from hindsight.artifact import Artifact, find_artifact
from hindsight.decode import decode_image
from hindsight.inputs import detect_inputs
from hindsight.options import DetectOptions
from hindsight.preprocess import letterbox
from training.machine import commit, processor_name

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "numpy",
    "pillow",
    "onnxruntime",
    "fastapi",
    "starlette",
    "uvicorn",
    "httptools",
    "uvloop",
    "pydantic",
)
_PHOTO_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}


def main(
    model: Annotated[str, typer.Option(help="Name or folder of a model.")] = "cells",
    photos: Annotated[
        Path | None, typer.Option(help="A folder of photos; the model's samples if left out.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT to resize photos to, as JPEG of quality 90.")
    ] = None,
    count: Annotated[int, typer.Option(help="Photos that are measured.", min=1)] = 200,
    warm_up: Annotated[int, typer.Option(help="Photos sent before.", min=1)] = 20,
    backend: Annotated[str, typer.Option(help="Runtime of the server.")] = "onnxruntime",
    threads: Annotated[int | None, typer.Option(help="Threads of one execution.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the result file; from the model and backend if left out.")
    ] = None,
) -> None:
    """Measure, print a table and write the result file."""
    artifact = find_artifact(model)
    bodies = load_photos(photos, artifact, size)
    latencies, stages = measure(artifact, bodies, count, warm_up, backend, threads)
    milliseconds = {
        "total": summary(latencies),
        **{stage: summary(values) for stage, values in stages.items()},
    }
    in_stages = [sum(values[at] for values in stages.values()) for at in range(count)]
    milliseconds["http_and_client"] = summary(
        [all_of - known for all_of, known in zip(latencies, in_stages, strict=True)]
    )
    heavy = [sum(stages[stage][at] for stage in ("decode", "letterbox", "model")) for at in range(count)]
    milliseconds["overhead"] = summary(
        [all_of - known for all_of, known in zip(latencies, heavy, strict=True)]
    )
    if backend == "onnxruntime":
        milliseconds["nms_inside_model"] = {"mean": profile_nms(artifact, bodies[0], threads)}
    result = {
        "what": "POST /detect, one photo at a time, kept-alive loopback HTTP: photo out to JSON in",
        "command": " ".join(["python", "benchmarks/serving_latency.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "model": {"name": artifact.manifest.name, "version": artifact.manifest.version},
        "backend": backend,
        "threads": threads,
        "photos": {"different": len(bodies), "sent": count, "sizes": sizes_of(bodies)},
        "hardware": hardware(),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "milliseconds": milliseconds,
    }
    label = name or f"serving-latency-{artifact.manifest.name}-{backend.replace(':', '-')}"
    path = RESULTS / f"{label}.json"
    RESULTS.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    for stage, figures in milliseconds.items():
        typer.echo(f"{stage:18}" + "".join(f"{figure:>6} {value:9.3f}" for figure, value in figures.items()))
    typer.echo(f"wrote {path.relative_to(ROOT)}")


def load_photos(folder: Path | None, artifact: Artifact, size: str | None) -> list[bytes]:
    """Encoded photos, resized if asked for."""
    paths = sorted(folder.iterdir()) if folder else list(artifact.samples)
    bodies = [path.read_bytes() for path in paths if path.suffix.lower() in _PHOTO_SUFFIXES][:64]
    if not bodies:
        raise typer.BadParameter(f"no photos in {folder or artifact.path / 'samples'}")
    if size is None:
        return bodies
    width, height = (int(side) for side in size.split("x"))
    resized = []
    for body in bodies:
        stream = io.BytesIO()
        Image.fromarray(decode_image(body)).resize((width, height)).save(stream, "JPEG", quality=90)
        resized.append(stream.getvalue())
    return resized


def measure(
    artifact: Artifact, bodies: Sequence[bytes], count: int, warm_up: int, backend: str, threads: int | None
) -> tuple[list[float], dict[str, list[float]]]:
    """-> milliseconds of each request as the client sees it, and by server stage."""
    command = [
        sys.executable,
        "-m",
        "service",
        "--model",
        str(artifact.path),
        "--port",
        "0",
        "--backend",
        backend,
    ]
    command += ["--threads", str(threads)] if threads else []
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
        assert server.stdout is not None
        try:
            line = server.stdout.readline()
            if " ready: " not in line:
                log.seek(0)
                raise typer.BadParameter(f"the server did not start: {log.read().decode()[-500:]}")
            return send_all(int(line.split()[3].rpartition(":")[2]), bodies, count, warm_up)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
            server.stdout.close()


def send_all(
    port: int, bodies: Sequence[bytes], count: int, warm_up: int
) -> tuple[list[float], dict[str, list[float]]]:
    """One connection, one photo at a time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    latencies: list[float] = []
    stages: dict[str, list[float]] = {}
    for at in range(-warm_up, count):
        start = time.perf_counter()
        connection.request("POST", "/detect", bodies[at % len(bodies)], {"Content-Type": "image/jpeg"})
        response = connection.getresponse()
        body = response.read()
        milliseconds = (time.perf_counter() - start) * 1000
        if response.status != http.HTTPStatus.OK:
            raise typer.BadParameter(f"status {response.status}: {body[:300].decode(errors='replace')}")
        if at < 0:
            continue
        latencies.append(milliseconds)
        for entry in response.headers["server-timing"].split(", "):
            stage, _, value = entry.partition(";dur=")
            stages.setdefault(stage, []).append(float(value))
    connection.close()
    return latencies, stages


def summary(values: Sequence[float]) -> dict[str, float]:
    """Percentiles and mean, milliseconds."""
    p50, p95 = np.percentile(values, [50, 95])
    return {
        "p50": round(float(p50), 3),
        "p95": round(float(p95), 3),
        "mean": round(statistics.fmean(values), 3),
    }


def profile_nms(artifact: Artifact, body: bytes, threads: int | None, runs: int = 10) -> float:
    """Mean milliseconds that one run of the graph spends in NonMaxSuppression nodes."""
    import onnxruntime as ort

    boxed = letterbox(decode_image(body), artifact.manifest.resize)
    inputs = detect_inputs([boxed], [DetectOptions.resolve(artifact.manifest)])
    options = ort.SessionOptions()
    options.enable_profiling = True
    if threads is not None:
        options.intra_op_num_threads = threads
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(artifact.model_path), options, providers=["CPUExecutionProvider"])
        taken = {node.name for node in session.get_inputs()}
        inputs = {key: value for key, value in inputs.items() if key in taken}
        for _ in range(runs):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    spent: int = sum(
        event["dur"]
        for event in events
        if event.get("args", {}).get("op_name") == "NonMaxSuppression"
        and event["name"].endswith("kernel_time")
    )
    return round(spent / runs / 1000, 3)


def sizes_of(bodies: Sequence[bytes]) -> dict[str, int]:
    """WIDTHxHEIGHT -> how many of the photos."""
    sizes: dict[str, int] = {}
    for body in bodies:
        with Image.open(io.BytesIO(body)) as image:
            key = f"{image.width}x{image.height}"
        sizes[key] = sizes.get(key, 0) + 1
    return sizes


def hardware() -> dict[str, Any]:
    """What it ran on, and how busy that was besides."""
    return {
        "cpu": processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
    }


if __name__ == "__main__":
    typer.run(main)
