"""Starts the server from a built image, bounded as compose.yaml bounds it, and looks at what it does."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from docker.prove.build import Image, container_mounts, home_of, user_of
from docker.prove.compose import Bounds
from docker.prove.container import REPOSITORY, Container, Spec, children_of

__all__ = ["Checks", "serve_and_check"]

_SAMPLE = REPOSITORY / "hindsight/models/cells/samples/BloodImage_00296.jpg"
_URL = "http://127.0.0.1:8000"
_HEALTHY_WITHIN = 300
_MANY = 8
_WRITES = """
import errno, json, os, sys
found = {}
for folder in ("/", "/opt/hindsight", "/opt/venv", "/models", "/etc", "/usr", "/var/tmp", "/tmp", "/dev/shm"):
    path = os.path.join(folder, "written-by-proof")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        os.unlink(path)
        found[folder] = "writable"
    except OSError as error:
        found[folder] = errno.errorcode[error.errno]
print(json.dumps(found))
"""
_STATUS = """
import json
keep = ("Name", "Uid", "Gid", "Groups", "NoNewPrivs", "CapEff", "CapBnd", "Seccomp")
rows = dict(line.split(":", 1) for line in open("/proc/1/status"))
print(json.dumps({name: rows[name].split() for name in keep if name in rows}))
"""
_SHARED = "import json, os; print(json.dumps({e.name: e.stat().st_size for e in os.scandir('/dev/shm')}))"


class Checks:
    """What must hold, one after the other; none is skipped when one before it failed."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.results: list[dict[str, Any]] = []
        self._say = say

    def that(self, name: str, passed: bool, detail: object = None) -> None:
        self.results.append({"check": name, "passed": bool(passed), "detail": detail})
        self._say(f"{'ok  ' if passed else 'FAIL'} {name}: {detail}")

    @property
    def passed(self) -> bool:
        return bool(self.results) and all(each["passed"] for each in self.results)


def serve_and_check(
    image: Image, bounds: Bounds, work: Path, log: IO[bytes], checks: Checks
) -> dict[str, Any]:
    """Start, wait for the HEALTHCHECK, ask, look inside, stop. -> figures for the record."""
    assert image.healthcheck is not None, "the image has a HEALTHCHECK"
    models = work / "models"
    shutil.copytree(REPOSITORY / "hindsight/models/pcb", models / "boards")
    spec = Spec(
        root=image.root,
        argv=[*image.entrypoint, *image.command],
        env={
            "HOME": home_of(image),
            "HOSTNAME": "hindsight",
            **image.env,
            **bounds.environment,
            "HINDSIGHT_MODEL": "cells,boards",
        },
        cwd=image.workdir,
        user=user_of(image),
        mounts=[
            ("bind-read-only", "/", str(image.root)),
            *container_mounts(bounds.shm_size),
            *(("tmpfs", folder, options) for folder, options in bounds.tmpfs),
            ("bind-read-only", image.workdir, str(models)),
        ],
        bound=True,
        network=False,
    )
    figures: dict[str, Any] = {"argv": list(spec.argv), "user": list(spec.user)}
    server = Container(spec, log)
    try:
        figures["healthy_after_seconds"] = _wait_until_healthy(server, image.healthcheck, checks)
        _look_inside(server, checks, figures)
        _ask(server, checks, figures)
        _stop_under_load(server, image, bounds, checks, figures)
        written = (work / "log").read_text(errors="replace")
        # What ONNX Runtime's telemetry says when it finds no place for its record, as here.
        checks.that("no runtime records use to report it", "telemetry_1ds" not in written)
    finally:
        server.close()
    return figures


def _wait_until_healthy(server: Container, command: list[str], checks: Checks) -> float | None:
    start = time.monotonic()
    first = None
    while server.running and time.monotonic() - start < _HEALTHY_WITHIN:
        if server.entered:
            answer = server.execute(command)
            if answer.returncode == 0:
                seconds = round(time.monotonic() - start, 1)
                checks.that("HEALTHCHECK passes", True, f"after {seconds} s")
                checks.that("HEALTHCHECK failed while it loaded", "not ready" in (first or ""), first)
                return seconds
            first = first or answer.stderr.strip()[-300:]
        time.sleep(0.3)
    checks.that("HEALTHCHECK passes", False, f"{'running' if server.running else 'ended'}; {first}")
    return None


def _look_inside(server: Container, checks: Checks, figures: dict[str, Any]) -> None:
    status = _json(server.execute(["python", "-c", _STATUS]))
    figures["process_1"] = status
    checks.that("process 1 is the non-root user", status["Uid"] == ["10001"] * 4, status["Uid"])
    checks.that(
        "it is in no other group", not status["Groups"] and status["Gid"] == ["10001"] * 4, status["Gid"]
    )
    bare = int(status["CapEff"][0], 16) == int(status["CapBnd"][0], 16) == 0 and status["NoNewPrivs"] == ["1"]
    checks.that("it has no capability and cannot get one", bare, status["CapBnd"])
    writes = _json(server.execute(["python", "-c", _WRITES]))
    free = sorted(folder for folder, outcome in writes.items() if outcome == "writable")
    checks.that("only /tmp and /dev/shm can be written", free == ["/dev/shm", "/tmp"], writes)
    readonly = {outcome for folder, outcome in writes.items() if folder not in free}
    checks.that("because the disk is read-only", readonly == {"EROFS"}, sorted(readonly))


def _ask(server: Container, checks: Checks, figures: dict[str, Any]) -> None:
    one = _client(server)
    checks.that("POST /detect answers 200", one["status"] == 200, f"{one['seconds']} s")
    figures["detect_seconds"] = one["seconds"]
    _compare(one["document"], checks)
    several = _client(server, "--many", str(_MANY))
    answered = several["status"] == 200 and _all_found(several["document"])
    checks.that(f"{_MANY} images in one request are answered", answered, f"{several['seconds']} s")
    blocks = _json(server.execute(["python", "-c", _SHARED]))
    figures["dev_shm_bytes"] = sum(blocks.values())
    checks.that("tensors pass through /dev/shm", len(blocks) >= 2, blocks)
    figures["memory"] = _memory(server)


def _all_found(document: dict[str, Any]) -> bool:
    results = document["results"]
    return len(results) == _MANY and all(result.get("detections") for result in results)


def _compare(document: dict[str, Any], checks: Checks) -> None:
    """The answer is what the library finds on this machine, in this process's own Python."""
    import hindsight

    expected = hindsight.load("cells", threads=2).detect(str(_SAMPLE)).to_records()
    found = document["detections"]
    same = len(found) == len(expected) > 0 and [row["label"] for row in found] == [
        row["label"] for row in expected
    ]
    rows = list(zip(found, expected, strict=False))
    pixels = [abs(a - b) for x, y in rows for a, b in zip(x["box"], y["box"], strict=True)]
    opinions = [abs(x[key] - y[key]) for x, y in rows for key in ("score", "iou", "purity", "integrity")]
    box, score = max(pixels, default=math.inf), max(opinions, default=math.inf)
    close = same and box <= 0.01 and score <= 1e-4
    detail = {"boxes": len(found), "largest_difference_px": box, "largest_difference_of_scores": score}
    checks.that("the answer is the library's", close, detail)


def _stop_under_load(
    server: Container, image: Image, bounds: Bounds, checks: Checks, figures: dict[str, Any]
) -> None:
    """STOPSIGNAL while a request runs: it is answered, then the process ends with status 0."""
    command = [sys.executable, "-m", "docker.prove.client", _URL, str(_SAMPLE), "--many", str(_MANY)]
    inside = ["nsenter", "--target", str(server.pid), "--net", *command]
    with subprocess.Popen(inside, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as asking:
        time.sleep(0.7)  # the client has started and sent; the request takes longer than that
        start = time.monotonic()
        still_asking = asking.poll() is None
        status = server.stop(signal.Signals[image.stop_signal], bounds.grace_seconds)
        seconds = round(time.monotonic() - start, 1)
        output, _ = asking.communicate(timeout=60)
    answer: dict[str, Any] = json.loads(output) if output else {"status": None}
    checks.that("the signal came while a request ran", still_asking)
    answered = answer["status"] == 200 and _all_found(answer["document"])
    checks.that("a request that runs is answered after the signal", answered, answer["status"])
    checks.that(
        f"{image.stop_signal} ends process 1 with status 0", status == 0, f"status {status}, {seconds} s"
    )
    figures["stop_seconds"] = seconds


def _client(server: Container, *arguments: str) -> dict[str, Any]:
    answer = server.from_outside(
        [sys.executable, "-m", "docker.prove.client", _URL, str(_SAMPLE), *arguments]
    )
    return _json(answer)


def _json(answer: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    if answer.returncode or not answer.stdout:
        raise RuntimeError(f"status {answer.returncode}: {answer.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def _memory(server: Container) -> dict[str, int]:
    """Proportional bytes of each process of the container: pages shared by two count half in each."""
    found: dict[str, int] = {}
    pending = [server.pid or 0]
    while pending:
        pid = pending.pop()
        with suppress(OSError):
            rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            kilobytes = next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            name = "tracker" if b"resource_tracker" in command else "server"
            name = "worker" if b"--multiprocessing-fork" in command else name
            found[name] = found.get(name, 0) + kilobytes * 1024
            pending += children_of(pid)
    return found | {"cores": os.cpu_count() or 0}
