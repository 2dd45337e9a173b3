"""ONNX Runtime's knobs on the CPU, on the shipped models: threads, spinning, memory, execution mode.

    python -m benchmarks.ort_cpu --rounds 30

Each setting differs from the default in one thing. One photo-sized input, all settings in turns; writes
benchmarks/results/ort-cpu.json. What wins here beyond noise is hindsight/runtime/onnxruntime.py's default.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime as ort
import typer

from benchmarks.turns import RESULTS, facts, in_turns, summary, write
from hindsight.artifact import Artifact, find_artifact
from hindsight.decode import decode_image
from hindsight.inputs import detect_inputs
from hindsight.options import DetectOptions
from hindsight.preprocess import letterbox


@dataclass(frozen=True)
class Setting:
    """Session options. threads 0: one a physical core, ONNX Runtime's own choice."""

    threads: int = 0
    spinning: bool = False
    arena: bool = True
    memory_pattern: bool = True
    parallel: bool = False
    flush_denormals: bool = False


def settings() -> dict[str, Setting]:
    """By name; the first is what the runtime does by default."""
    cores = len(os.sched_getaffinity(0))
    default = Setting()
    return {
        "default": default,
        "one thread": replace(default, threads=1),
        f"{cores} threads": replace(default, threads=cores),
        "spinning": replace(default, spinning=True),
        "no arena": replace(default, arena=False),
        "no memory pattern": replace(default, memory_pattern=False),
        "parallel": replace(default, parallel=True),
        "denormals as zero": replace(default, flush_denormals=True),
    }


def main(
    rounds: Annotated[int, typer.Option(help="How often each setting runs.")] = 30,
    models: Annotated[list[str] | None, typer.Option("--model", help="Models to run.")] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = RESULTS / "ort-cpu.json",
) -> None:
    """Measure every setting on every model."""
    load = os.getloadavg()[0]
    found = {}
    for name in models or ["cells", "pcb"]:
        artifact = find_artifact(name)
        programs = {label: program(artifact, setting) for label, setting in settings().items()}
        found[name] = summary(in_turns(programs, rounds), "default")
        for label, row in found[name].items():
            typer.echo(f"{name:8} {label:20} {row['median_ms']:9.2f} ms  {row['times_as_fast']:6.3f}x")
    write(out, {"rounds": rounds, "models": found, **facts(["onnxruntime", "numpy"], load)})
    typer.echo(f"wrote {out}")


def program(artifact: Artifact, setting: Setting) -> Callable[[], object]:
    """One detection on the model's first sample."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = setting.threads
    options.enable_cpu_mem_arena = setting.arena
    options.enable_mem_pattern = setting.memory_pattern
    if setting.parallel:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(setting.spinning)))
    options.add_session_config_entry("session.set_denormal_as_zero", str(int(setting.flush_denormals)))
    session = ort.InferenceSession(str(artifact.model_path), options, providers=["CPUExecutionProvider"])
    manifest = artifact.manifest
    photo = letterbox(decode_image(artifact.samples[0].read_bytes()), manifest.resize)
    inputs = detect_inputs([photo], [DetectOptions.resolve(manifest)])
    taken = {node.name: np.ascontiguousarray(inputs[node.name]) for node in session.get_inputs()}
    return lambda: session.run(None, taken)


if __name__ == "__main__":
    typer.run(main)
