"""Fifty reloads under traffic: no request fails or is answered by a mixture, and nothing piles up."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import onnxruntime
import pytest

from hindsight.artifact import ResizeRule
from tests.e2e import pretend_runtime
from tests.factories import make_tiny_artifact
from tests.server_process import TILES, ServerProcess, serving, wait_until

RELOADS, SETTLED_AFTER = 50, 5
IOUS = {"1": 0.8, "2": 0.6}
RULES = {"1": ResizeRule(96, 160, 32), "2": ResizeRule(192, 320, 32)}
MOST_GROWTH_KB = 20_000
BLOCKS_OF_A_WORKER = 2  # one for requests, one for replies, each made when it is first needed
PNG = {"content-type": "image/png"}


@dataclass
class Traffic:
    """What the clients saw: answers by version, and everything that should not have been."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def note(self, response: httpx.Response) -> None:
        if response.status_code != 200:
            self.faults.append(f"{response.status_code} {response.text[:300]}")
            return
        document = response.json()
        for result in document.get("results", [document]):
            version = result.get("version", "none")
            rows: list[dict[str, Any]] = result.get("detections", [])
            if [round(row["iou"], 4) for row in rows] != [IOUS.get(version)]:
                self.faults.append(f"version {version} answered {result}")
            self.answers[version] += 1


def ask(url: str, traffic: Traffic, kind: str) -> None:
    """Until told to stop: one image, three in one body, or one that is sent slowly."""

    def slowly() -> Any:
        yield TILES[:200]
        time.sleep(0.1)
        yield TILES[200:]

    files = [("image", ("tiles.png", TILES, "image/png"))] * 3
    with httpx.Client(base_url=url, timeout=90) as client:
        while not traffic.stop.is_set():
            try:
                if kind == "many":
                    traffic.note(client.post("/detect", files=files))
                else:
                    body = slowly() if kind == "slow" else TILES
                    traffic.note(client.post("/detect", content=body, headers=PNG))
            except httpx.HTTPError as error:
                traffic.faults.append(repr(error))
            time.sleep(0.02)


@dataclass
class Holdings:
    """Of the server and its workers: kilobytes, open files, shared blocks, processes."""

    kilobytes: int
    files: int
    blocks: int
    processes: int


def holdings(server: ServerProcess) -> Holdings:
    root = server.process.pid
    children = [
        int(pid) for file in Path(f"/proc/{root}/task").glob("*/children") for pid in file.read_text().split()
    ]
    rollups = []
    for pid in (root, *children):
        with suppress(OSError):  # it ends just now
            rollups.append(Path(f"/proc/{pid}/smaps_rollup").read_text())
    shares = [line.split() for rollup in rollups for line in rollup.splitlines() if line.startswith("Pss:")]
    maps = Path(f"/proc/{root}/maps").read_text().splitlines()
    blocks = {line.split()[5] for line in maps if "/dev/shm/" in line}
    files = len(list(Path(f"/proc/{root}/fd").iterdir()))
    return Holdings(sum(int(share[1]) for share in shares), files, len(blocks), len(rollups))


def quiet_holdings(server: ServerProcess) -> Holdings:
    """When the old worker has ended: the server, one worker and the tracker of shared memory."""
    found: list[Holdings] = []

    def quiet() -> bool:
        found.append(holdings(server))
        return found[-1].processes == 3

    wait_until(quiet, "one worker to be left")
    return found[-1]


@pytest.mark.timeout(600)
def test_fifty_reloads_under_traffic_fail_no_request_and_leak_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", pretend_runtime.install(tmp_path / "site"))
    folder, away = tmp_path / "models", tmp_path / "away"
    for version, parent in (("1", folder), ("2", away)):
        make_tiny_artifact(parent / "tiny", version=version, integrity=IOUS[version], resize=RULES[version])
    traffic = Traffic()
    with serving(
        tmp_path / "server", "--models", str(folder), "--backend", "pretend:2", admin=True
    ) as server:
        kinds = ("one", "one", "many", "slow")
        clients = [threading.Thread(target=ask, args=(server.url, traffic, kind)) for kind in kinds]
        for client in clients:
            client.start()
        try:
            for count in range(RELOADS):
                if count == SETTLED_AFTER:
                    before = quiet_holdings(server)
                (folder / "tiny").rename(tmp_path / "spare")
                (away / "tiny").rename(folder / "tiny")
                (tmp_path / "spare").rename(away / "tiny")
                response = server.client.post("/models/tiny/load")
                assert response.status_code == 200, response.text
            after = quiet_holdings(server)
        finally:
            traffic.stop.set()
            for client in clients:
                client.join()
        assert server.metric("hindsight_model_changes_total") == RELOADS
        assert [record for record in server.log() if record["level"] == "error"] == []
    assert traffic.faults == []
    assert min(traffic.answers["1"], traffic.answers["2"]) > RELOADS, traffic.answers
    assert after.kilobytes - before.kilobytes < MOST_GROWTH_KB, (before, after)
    assert after.files <= before.files + 2 and after.blocks <= BLOCKS_OF_A_WORKER, (before, after)


def gpu_megabytes() -> int:
    """In use on the first GPU, by all processes."""
    command = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not shutil.which("nvidia-smi"),
    reason="needs onnxruntime-gpu and a GPU",
)
def test_the_memory_of_a_gpu_returns_after_reloads(tmp_path: Path) -> None:
    path = make_tiny_artifact(tmp_path / "tiny").path
    with serving(tmp_path / "server", "--model", str(path), "--device", "cuda", admin=True) as server:
        used = []
        for _ in range(6):
            assert server.client.post("/models/tiny/load").status_code == 200
            assert server.client.post("/detect", content=TILES, headers=PNG).status_code == 200
            quiet_holdings(server)
            used.append(gpu_megabytes())
    assert used[-1] <= used[1] + 64, used
