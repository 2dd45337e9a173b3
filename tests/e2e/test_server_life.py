"""How the server starts, refuses to start, and stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.factories import make_tiny_artifact
from tests.server_process import REPOSITORY, TILES, serving, wait_until


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_tiny_artifact(tmp_path / "tiny").path


def refuse(*arguments: str) -> str:
    """Start a server that must not start; -> its one line of complaint."""
    command = [sys.executable, "-m", "service", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith("hindsight: "), line
    return line


def test_a_changed_byte_in_the_artifact_stops_the_start(tiny: Path) -> None:
    model = tiny / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)
    assert "model.onnx" in refuse("--model", str(tiny), "--port", "0")


def test_a_missing_file_in_the_artifact_stops_the_start(tiny: Path) -> None:
    (tiny / "weights.bin").unlink()
    assert "weights.bin" in refuse("--model", str(tiny), "--port", "0")


def test_a_newer_artifact_format_stops_the_start(tiny: Path) -> None:
    manifest = json.loads((tiny / "manifest.json").read_text())
    (tiny / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    assert "newer" in refuse("--model", str(tiny), "--port", "0")


def test_an_unknown_model_and_a_bad_setting_stop_the_start(tiny: Path) -> None:
    assert "no-such-model" in refuse("--model", "no-such-model", "--port", "0")
    assert "port" in refuse("--model", str(tiny), "--port", "70000")
    assert "--max-queue" in refuse("--model", str(tiny), "--port", "0", "--max-queue", "2")
    assert "two models" in refuse("--model", str(tiny), "--model", str(tiny), "--port", "0")


def test_an_unknown_backend_stops_the_start(tiny: Path) -> None:
    line = refuse("--model", str(tiny), "--port", "0", "--backend", "nonsense:fp16")
    assert "unknown runtime 'nonsense'; there are: onnxruntime" in line and "device cpu" not in line


def test_what_only_the_worker_finds_out_stops_the_start(tiny: Path) -> None:
    line = refuse("--model", str(tiny), "--port", "0", "--device", "nonsense")
    assert "device nonsense" in line and "(while opening tiny@1)" in line
    assert "sleep" in refuse("--model", str(tiny), "--port", "0", "--backend", "sleep:soon")


def test_a_bad_model_in_a_folder_stops_the_start_and_says_how_to_go_on(tmp_path: Path) -> None:
    make_tiny_artifact(tmp_path / "models" / "bad", name="bad")
    good = make_tiny_artifact(tmp_path / "models" / "good" / "1", name="good").path
    (tmp_path / "models" / "bad" / "weights.bin").write_bytes(b"gone")
    words = ("--models", str(tmp_path / "models"), "--port", "0")
    line = refuse(*words)
    assert "weights.bin" in line and "--skip-bad-models" in line
    (good / "weights.bin").write_bytes(b"gone")
    assert "no model to serve" in refuse(*words, "--skip-bad-models")
    assert "nowhere: cannot be read" in refuse("--models", str(tmp_path / "nowhere"), "--port", "0")


def test_a_bad_model_in_a_folder_can_be_skipped(tmp_path: Path) -> None:
    make_tiny_artifact(tmp_path / "models" / "good" / "1", name="good")
    (make_tiny_artifact(tmp_path / "models" / "bad", name="bad").path / "weights.bin").write_bytes(b"gone")
    words = ("--models", str(tmp_path / "models"), "--skip-bad-models", "--backend", "sleep:1")
    with serving(tmp_path / "server", *words) as server:
        assert server.client.post("/detect", content=TILES).json()["model"] == "good"
        [bad] = server.client.get("/models").json()["unloaded"]
        assert bad["name"] == "bad" and bad["versions"][0]["state"] == "failed"
        assert "weights.bin" in bad["versions"][0]["failure"]


def test_a_busy_port_stops_the_start(tiny: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert str(port) in refuse("--model", str(tiny), "--port", str(port))


def test_an_address_that_is_not_ours_stops_the_start(tiny: Path) -> None:
    for host in ("no such host", "a" * 70):
        assert "--host" in refuse("--model", str(tiny), "--port", "0", "--host", host)


def test_sigterm_finishes_what_runs_and_leaves_nothing_behind(tiny: Path, tmp_path: Path) -> None:
    arguments = ("--model", str(tiny), "--backend", "sleep:1500")
    with serving(tmp_path / "server", *arguments) as server:
        worker = server.worker_pid()
        answers: list[httpx.Response] = []
        sender = threading.Thread(target=lambda: answers.append(server.client.post("/detect", content=TILES)))
        sender.start()
        wait_until(lambda: server.metric("hindsight_batch_size_count") == 1, "the image to run")
        blocks = _shared_memory_of(worker)
        assert blocks, "the worker maps the blocks that its images travel in"
        assert server.close() == 0
        sender.join()
        assert answers[0].status_code == 200
        assert not Path(f"/proc/{worker}").exists()
        assert not [block for block in blocks if Path("/dev/shm", block).exists()]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/healthz")
        assert [record for record in server.log() if record["level"] == "error"] == []


def test_a_worker_never_outlives_a_killed_server(tiny: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "server", "--model", str(tiny)) as server:
        assert server.client.post("/detect", content=TILES).status_code == 200
        worker = server.worker_pid()
        blocks = _shared_memory_of(worker)
        os.kill(server.process.pid, signal.SIGKILL)
        wait_until(lambda: not _alive(worker), "the worker to end")
        wait_until(
            lambda: not any(Path("/dev/shm", block).exists() for block in blocks), "its memory to be freed"
        )


def test_the_first_answer_comes_soon_and_the_environment_configures(tiny: Path, tmp_path: Path) -> None:
    start = time.monotonic()
    with serving(tmp_path / "server", model=str(tiny), log_level="warning", host="127.0.0.1") as server:
        assert server.client.post("/detect", content=TILES).status_code == 200
        assert time.monotonic() - start < 60
        assert server.log_path.read_text() == ""


def _shared_memory_of(pid: int) -> list[str]:
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return sorted({line.rpartition("/")[2] for line in maps if "/dev/shm/psm_" in line})


def _alive(pid: int) -> bool:
    """False for a zombie too: an orphan is reaped whenever init gets to it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
