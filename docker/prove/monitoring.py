"""`python -m docker.prove.monitoring FOLDER`: a real Prometheus, with our files, reads a real server.

FOLDER holds the programs prometheus and promtool (Debian's package prometheus). Checks configuration and
rules, runs the rules' own tests, then asks Prometheus every query of the dashboard and looks at the alerts
before and after the server stops. About a minute; writes benchmarks/results/docker-monitoring.json.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml

from docker.grafana.dashboard import dashboard
from docker.prove.client import ask
from docker.prove.container import REPOSITORY, children_of
from docker.prove.serving import Checks

RESULT = REPOSITORY / "benchmarks/results/docker-monitoring.json"
_FILES = REPOSITORY / "docker/prometheus"
_SAMPLE = REPOSITORY / "hindsight/models/cells/samples/BloodImage_00296.jpg"
_TRAFFIC_SECONDS = 25
_VARIABLES = {"$__rate_interval": "20s", "$instance": ".*", "$model": ".*"}


def main() -> int:
    """-> exit status."""
    programs = Path(sys.argv[1])
    checks = Checks(_say)
    for name, command in {
        "promtool accepts the rules": ["check", "rules", str(_FILES / "alerts.yaml")],
        "the rules' tests pass": ["test", "rules", str(_FILES / "alerts.test.yaml")],
    }.items():
        answer = subprocess.run(
            [programs / "promtool", *command], capture_output=True, text=True, check=False
        )
        said = (answer.stdout + answer.stderr).replace(f"{REPOSITORY}/", "")
        checks.that(name, answer.returncode == 0, said.strip()[-300:])
    with tempfile.TemporaryDirectory() as scratch, _server(Path(scratch)) as (server, address):
        config = _config(Path(scratch), address)
        answer = subprocess.run(
            [programs / "promtool", "check", "config", config], capture_output=True, text=True, check=False
        )
        checks.that("promtool accepts the configuration", answer.returncode == 0)
        with _prometheus(programs, config, Path(scratch)) as query:
            _traffic(f"http://{address}", server.pid)
            results = _every_query(query, checks)
            # One may be pending: a worker was killed, and images were refused meanwhile.
            checks.that(
                "no alert fires while it serves", "firing" not in _alerts(query).values(), _alerts(query)
            )
            server.send_signal(signal.SIGTERM)
            server.wait(60)
            raised = _wait_for(lambda: _alerts(query).get("HindsightDown"))
            checks.that("HindsightDown is pending once it is gone", raised is not None, raised)
    version = subprocess.run(
        [programs / "prometheus", "--version"], capture_output=True, text=True, check=True
    )
    record = {
        "what": "the dashboard's queries and the alerts, by a real Prometheus that reads a real server",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=REPOSITORY, check=True, capture_output=True, text=True
        ).stdout.strip(),
        "prometheus": (version.stdout or version.stderr).splitlines()[0],
        "queries": results,
        "checks": checks.results,
        "not_covered": [
            "Grafana: the dashboard was never drawn",
            "the Prometheus of compose.yaml, which is newer",
        ],
    }
    if not checks.passed:
        return 1
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    _say(f"{len(checks.results)} checks passed; {RESULT}")
    return 0


@contextmanager
def _server(scratch: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A server whose runtime only waits; -> its process and its address."""
    port = _free_port()
    command = [sys.executable, "-m", "service", "--port", str(port), "--backend", "sleep:20"]
    with (scratch / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        try:
            _wait_for(lambda: _status(f"http://127.0.0.1:{port}/readyz") == 200)
            yield process, f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


@contextmanager
def _prometheus(programs: Path, config: Path, scratch: Path) -> Iterator[Callable[..., Any]]:
    """-> a function (path, **parameters) -> the `data` of Prometheus' answer."""
    port = _free_port()
    command = [
        str(programs / "prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={scratch / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def query(path: str, **parameters: str) -> Any:
        with urlopen(f"http://127.0.0.1:{port}/api/v1/{path}?{urlencode(parameters)}", timeout=20) as answer:
            return json.loads(answer.read())["data"]

    with (scratch / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(lambda: _status(f"http://127.0.0.1:{port}/-/ready") == 200)
            yield query
        finally:
            process.kill()
            process.wait()


def _config(scratch: Path, address: str) -> Path:
    """Our prometheus.yaml with this server's address and this machine's files, read every second."""
    document = yaml.safe_load((_FILES / "prometheus.yaml").read_text())
    document["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    document["rule_files"] = [str(_FILES / "alerts.yaml")]
    ours = document["scrape_configs"][0]
    ours["static_configs"][0]["targets"] = [address]
    document["scrape_configs"] = [ours]
    path = scratch / "prometheus.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def _traffic(url: str, server_pid: int) -> None:
    """Detections, a rescore and, once, a worker that is killed; ends by itself."""
    image = _SAMPLE.read_bytes()
    end = time.monotonic() + _TRAFFIC_SECONDS
    killed = False
    while time.monotonic() < end:
        with suppress(OSError):
            ask(url, image, "image/jpeg")
        if not killed and time.monotonic() > end - _TRAFFIC_SECONDS / 2:
            _kill_worker(server_pid)
            killed = True
        time.sleep(0.05)


def _kill_worker(server_pid: int) -> None:
    for child in children_of(server_pid):
        if b"--multiprocessing-fork" in Path(f"/proc/{child}/cmdline").read_bytes():
            os.kill(child, signal.SIGKILL)


def _every_query(query: Callable[..., Any], checks: Checks) -> dict[str, Any]:
    """Panel -> number of series and one value, by query."""
    found: dict[str, Any] = {}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = target["expr"]
            for name, value in _VARIABLES.items():
                expression = expression.replace(name, value)
            result = query("query", query=expression)["result"]
            values = [float(series["value"][1]) for series in result]
            numbers = [value for value in values if value == value]
            found.setdefault(panel["title"], []).append(
                {"series": len(result), "highest": max(numbers, default=None)}
            )
            checks.that(f"{panel['title']} {target['refId']} has values", bool(numbers), len(result))
    return found


def _alerts(query: Callable[..., Any]) -> dict[str, str]:
    return {alert["labels"]["alertname"]: alert["state"] for alert in query("alerts")["alerts"]}


def _wait_for(found: Callable[[], Any], seconds: float = 120) -> Any:
    """What `found` gives once it gives something; None when the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if answer := found():
            return answer
        time.sleep(0.2)
    return None


def _status(url: str) -> int | None:
    try:
        with urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except OSError:
        return None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
