"""Whole detectors on one GPU: torchvision's, ours, ours with the DIR head; one call, under nine minutes.

    python -m benchmarks.gpu                          # writes benchmarks/results/gpu-GPU.json
    python -m benchmarks.gpu --parts ceiling,baseline
    python -m benchmarks.gpu --dry-run-cpu --out try.json    # the same at toy size: does the script work?

R50-FPN at 800x1344, 1000 proposals, 90 classes, random weights spread so that there are detections. Inputs
lie on the GPU, outputs stay there. `share_of_ceiling` is the arithmetic of convolutions and fully connected
layers over the time taken, beside the fastest matrix product of the same precision in the same run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.gpu_parts import PARTS, run_part
from benchmarks.gpu_summary import line_of, summary_of, with_shares
from benchmarks.gpu_systems import FULL, TOY, Scale
from training.machine import commit, processor

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_PACKAGES = ("torch", "torchvision", "triton", "cuda-bindings", "nvidia-cudnn-cu13", "nvidia-cublas")
_SPARE = 5  # seconds kept for writing the result


def main(
    parts: Annotated[str | None, typer.Option(help=f"Some of: {', '.join(PARTS)}.")] = None,
    seconds: Annotated[float, typer.Option(help="The whole call ends before this.")] = 540.0,
    dry_run_cpu: Annotated[bool, typer.Option(help="Toy size on the CPU: only shows that it works.")] = False,
    out: Annotated[Path | None, typer.Option(help="The JSON file; named for the GPU if left out.")] = None,
    commit_of: Annotated[
        str | None, typer.Option("--commit", help="Of this code, where the copy has no .git.")
    ] = None,
    child: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure each part in a process of its own and write the figures, after each part anew."""
    scale = TOY if dry_run_cpu else FULL
    if not dry_run_cpu and not torch.cuda.is_available():
        _refuse("no GPU that torch can use; --dry-run-cpu needs none")
    if child is not None:
        assert out is not None
        run_part(child, scale, out)
        return
    if dry_run_cpu and out is None:
        _refuse("--dry-run-cpu measures nothing worth keeping: name a file with --out")
    chosen = list(PARTS) if parts is None else [part.strip() for part in parts.split(",")]
    unknown = [part for part in chosen if part not in PARTS]
    if unknown:
        _refuse(f"unknown part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    # ended from outside, a part must not stay behind on the GPU: _ended's clean-up needs an exception
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    result = _header(scale, commit_of)
    path = out or RESULTS / f"gpu-{_slug(result['hardware']['gpu'])}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + seconds - _SPARE
    for name in chosen:
        left = deadline - time.monotonic()
        # A dry run on a slow machine proves that a part works, not how fast it starts.
        allowed = left if dry_run_cpu else min(PARTS[name][0], left)
        result["parts"][name] = _run(name, allowed, dry_run_cpu)
        with_shares(result)
        result["summary"] = summary_of(result, scale)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        sys.stdout.write(line_of(name, result["parts"][name]) + "\n")
        sys.stdout.flush()
    sys.stdout.write(json.dumps(result["summary"], indent=2) + f"\n{path}\n")
    if any(part["status"] != "complete" for part in result["parts"].values()):
        raise typer.Exit(1)


def _run(name: str, seconds: float, dry_run_cpu: bool) -> dict[str, Any]:
    """A part in its own process, ended after `seconds`: what it measured until then, and how it ended."""
    if seconds <= 0:
        return {"status": "not started: no time left", "seconds": 0.0, "rows": []}
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        rows, errors = Path(folder) / "rows.json", Path(folder) / "errors"
        words = [sys.executable, "-m", "benchmarks.gpu", "--child", name, "--out", str(rows)]
        words += ["--dry-run-cpu"] if dry_run_cpu else []
        status = _ended(words, seconds, errors)
        measured = json.loads(rows.read_text(encoding="utf-8")) if rows.exists() else []
    if status == "complete" and any("error" in row for row in measured):
        status = "some rows failed"
    return {"status": status, "seconds": round(time.monotonic() - begin, 1), "rows": measured}


def _ended(words: Sequence[str], seconds: float, errors: Path) -> str:
    """Run it in a session of its own, so that the workers which a compiler starts end with it."""
    with errors.open("wb") as stream:
        process = subprocess.Popen(
            words,
            cwd=ROOT,
            env=_environment(),
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return f"out of time after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return "complete" if code == 0 else f"failed: {_last_line(errors.read_text(errors='replace'))}"


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "no message"


def _header(scale: Scale, commit_of: str | None) -> dict[str, Any]:
    on_gpu = scale.device != "cpu"
    capability = ".".join(map(str, torch.cuda.get_device_capability())) if on_gpu else None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit_of or commit(ROOT),
        "hardware": {
            "gpu": torch.cuda.get_device_name() if on_gpu else "none (dry run)",
            "capability": capability,
            "driver": _driver() if on_gpu else None,
            "cpu": processor(),
        },
        "versions": {"python": platform.python_version(), "cuda": torch.version.cuda, **_versions(_PACKAGES)},
        "scale": asdict(scale),
        "parts": {},
        "summary": {},
    }


def _driver() -> str | None:
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().splitlines()[0] if done.returncode == 0 and done.stdout.strip() else None


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _slug(gpu: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", gpu.lower().removeprefix("nvidia ")).strip("-")


def _refuse(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    raise SystemExit(2)


if __name__ == "__main__":
    typer.run(main)
