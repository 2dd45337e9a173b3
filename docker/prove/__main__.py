"""`make docker-proof`: run the CPU image's recipe and serve from it, without Docker. As root, on Debian with
debootstrap.

Reads docker/serve-cpu.Dockerfile, does each step in a clean Debian of its own, starts the server as
compose.yaml would, and writes what it did and found. Exit status 1 if a step or a check failed; no record is
written then.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from docker.prove.build import Builder, Image, StepFailed
from docker.prove.compose import bounds_of
from docker.prove.container import REPOSITORY
from docker.prove.dockerfile import DockerfileError
from docker.prove.ignore import Ignore, context_files
from docker.prove.record import not_covered, sizes_of
from docker.prove.serving import Checks, serve_and_check

RESULT = REPOSITORY / "benchmarks/results/docker-proof.json"
_PASSED_ON = ("PIP_", "UV_", "SSL_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def main() -> int:
    """-> exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, help="an empty folder to work in (default: a temporary one)")
    parser.add_argument("--bases", type=Path, help="a folder that keeps the Debian for the next run")
    parser.add_argument("--keep", action="store_true", help="leave the folder and what was built in it")
    parser.add_argument("--out", type=Path, default=RESULT, help="the record")
    given = parser.parse_args()
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.stderr.write("run this as root on Debian, with debootstrap (apt-get install debootstrap)\n")
        return 2
    work = given.work or Path(tempfile.mkdtemp(prefix="hindsight-docker-"))
    work.mkdir(parents=True, exist_ok=True)
    if any(work.iterdir()):
        sys.stderr.write(f"{work} is not empty\n")
        return 2
    try:
        return _prove(work, given.bases or work / "bases", given.out)
    except (DockerfileError, StepFailed, RuntimeError, subprocess.CalledProcessError) as error:
        sys.stderr.write(f"{error}\n{_tail(work / 'log')}\n")
        return 1
    finally:
        if not given.keep:
            shutil.rmtree(work)


def _prove(work: Path, bases: Path, out: Path) -> int:
    commit = _git("rev-parse", "HEAD")
    changed = _git("status", "--porcelain")
    dockerfile = REPOSITORY / "docker/serve-cpu.Dockerfile"
    ignore = Ignore((REPOSITORY / ".dockerignore").read_text())
    context = {path: REPOSITORY / path for path in context_files(REPOSITORY, ignore)}
    passed = {name: value for name, value in os.environ.items() if _is_access(name)}
    start = time.monotonic()
    with (work / "log").open("wb") as log:
        builder = Builder(work, bases, context, passed, log, _say)
        image = builder.build(dockerfile.read_text())
        built = round(time.monotonic() - start, 1)
        checks = Checks(_say)
        figures = serve_and_check(
            image, bounds_of(REPOSITORY / "docker/compose.yaml", "hindsight"), work, log, checks
        )
    bounds = bounds_of(REPOSITORY / "docker/compose.yaml", "hindsight")
    record = {
        "what": "docker/serve-cpu.Dockerfile, step by step in a Debian chroot; the server from it",
        "command": "make docker-proof",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "uncommitted_changes": sorted(line[3:] for line in changed.splitlines()),
        "machine": _machine(),
        "stand_ins": {
            name: {"suite": base.suite, "packages": base.packages, "differs": base.differs}
            for name, base in builder.bases.items()
        },
        "context": {"files": len(context), "bytes": sum(path.stat().st_size for path in context.values())},
        "steps": builder.steps,
        "build_seconds": built,
        "image": _described(image),
        "sizes": sizes_of(image, builder.steps),
        "serving": figures,
        "checks": checks.results,
        "not_covered": not_covered(bounds),
    }
    if not checks.passed:
        sys.stderr.write(f"a check failed; no record was written\n{_tail(work / 'log')}\n")
        return 1
    out.write_text(json.dumps(record, indent=1) + "\n")
    _say(f"{len(checks.results)} checks passed; {out}")
    return 0


def _described(image: Image) -> dict[str, Any]:
    return {
        "entrypoint": image.entrypoint,
        "command": image.command,
        "user": image.user,
        "workdir": image.workdir,
        "exposed": image.exposed,
        "stop_signal": image.stop_signal,
        "healthcheck": image.healthcheck,
        "health_options": image.health_options,
        "env": image.env,
        "labels": image.labels,
    }


def _machine() -> dict[str, Any]:
    release = platform.freedesktop_os_release()
    return {"system": release["PRETTY_NAME"], "kernel": platform.release(), "cores": os.cpu_count()}


def _is_access(name: str) -> bool:
    return name.startswith(_PASSED_ON) or name.lower() in _PROXIES


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.strip()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:]) if log.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
