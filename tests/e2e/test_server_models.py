"""Loading and unloading models while the server runs, and what happens where that fails."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from hindsight.artifact import ResizeRule
from hindsight.client import Client
from service.schemas import ModelsResponse, ModelStatus, Readiness
from tests.e2e import pretend_runtime
from tests.factories import encode, make_tiny_artifact, tiles_image
from tests.server_process import TILES, ServerProcess, assert_finds_tiles, assert_problem, serving, wait_until

SMALL, LARGE = ResizeRule(96, 160, 32), ResizeRule(192, 320, 32)
IOUS = {"1": 0.8, "2": 0.6, "3": 0.4}
START_SECONDS = 3


def add_version(folder: Path, version: str, trouble: str = "none", name: str = "tiny") -> Path:
    """Versions differ in what they say of every box, and in how large they want their images."""
    path = folder / name / version
    make_tiny_artifact(
        path,
        name=name,
        version=version,
        integrity=IOUS[version],
        resize=SMALL if version == "1" else LARGE,
        training_data={"trouble": trouble},
    )
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with `tiny` 1 and `other` 1; processes have the runtime `pretend`."""
    monkeypatch.setenv("PYTHONPATH", pretend_runtime.install(tmp_path / "site"))
    add_version(tmp_path / "models", "1")
    add_version(tmp_path / "models", "1", name="other")
    return tmp_path / "models"


Start = Callable[..., ServerProcess]


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts servers of the repository, with `tiny` as the default model."""
    running: list[ServerProcess] = []

    def started(*arguments: str, milliseconds: int = 1, **settings: object) -> ServerProcess:
        place = tmp_path / f"server-{len(running)}"
        place.mkdir()
        words = ("--models", str(folder), "--model", "tiny", "--backend", f"pretend:{milliseconds}")
        server = ServerProcess(place, *words, *arguments, admin=True, start_timeout=START_SECONDS, **settings)
        running.append(server)
        return server

    yield started
    for server in running:
        server.close()


def detect(server: ServerProcess, model: str | None = None) -> httpx.Response:
    query = {} if model is None else {"model": model}
    return server.client.post("/detect", content=TILES, params=query)


def assert_answers(server: ServerProcess, version: str, model: str | None = None) -> None:
    """Whole and by this version: what it says matches its name."""
    response = detect(server, model)
    assert response.status_code == 200, response.text
    assert response.json()["version"] == version
    assert_of_one_version(response.json())


def assert_of_one_version(document: dict[str, Any]) -> None:
    [detection] = document["detections"]
    assert detection["iou"] == pytest.approx(IOUS[document["version"]], abs=1e-6)


def load(server: ServerProcess, name: str = "tiny", **query: object) -> httpx.Response:
    return server.client.post(f"/models/{name}/load", params={**query})


def unload(server: ServerProcess, name: str = "tiny", **query: object) -> httpx.Response:
    return server.client.post(f"/models/{name}/unload", params={**query})


def states(server: ServerProcess, name: str = "tiny") -> dict[str | None, str]:
    document = ModelStatus.model_validate(server.client.get(f"/models/{name}").json())
    return {entry.version: entry.state for entry in document.versions}


def workers(server: ServerProcess) -> list[int]:
    """The process ids of the server's workers that live."""
    children = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    pids = [int(pid) for file in children for pid in file.read_text().split()]
    return [pid for pid in pids if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_new_version_takes_over_and_the_old_process_ends(folder: Path, start: Start) -> None:
    server = start()
    old = server.worker_pid()
    assert_answers(server, "1")
    add_version(folder, "2")
    assert states(server) == {"2": "unloaded", "1": "loaded"}
    assert_answers(server, "1")
    response = load(server)
    assert response.status_code == 200, response.text
    assert {each["version"]: each["state"] for each in response.json()["versions"]} == {
        "2": "loaded",
        "1": "unloaded",
    }
    assert_answers(server, "2")
    wait_until(lambda: len(workers(server)) == 1, "the old worker to end")
    assert workers(server) == [server.worker_pid()] != [old]
    assert_problem(detect(server, "tiny@1"), 404, "model-not-found")


def test_a_version_that_is_named_is_loaded_beside_the_others(folder: Path, start: Start) -> None:
    add_version(folder, "2")
    server = start()
    assert_answers(server, "2")
    assert load(server, version="1").status_code == 200
    assert states(server) == {"2": "loaded", "1": "loaded"}
    for model, version in ((None, "2"), ("tiny", "2"), ("tiny@1", "1"), ("tiny@2", "2")):
        assert_answers(server, version, model)
    client = Client(server.url, model="tiny@1")
    assert client.detect(TILES).ious == pytest.approx([0.8])
    assert client.rescore(TILES, [[0, 0, 9, 9]]).ious == pytest.approx([0.8])
    assert unload(server, version="2").status_code == 200
    assert_answers(server, "1")
    assert_problem(detect(server, "tiny@2"), 404, "model-not-found")


def test_a_version_named_at_the_start_is_kept_to(folder: Path, start: Start) -> None:
    add_version(folder, "2")
    server = start("--model", "other")
    assert_answers(server, "2")
    server = start("--model", "tiny@1")
    assert {version for version, state in states(server).items() if state == "loaded"} == {"1", "2"}


def test_the_overview_names_versions_states_and_the_default(folder: Path, start: Start) -> None:
    server = start()
    shutil.copytree(folder / "other", folder / "third", symlinks=True)  # its manifest says `other`
    document = ModelsResponse.model_validate(server.client.get("/models").json())
    assert document.default == "tiny"
    assert [entry.name for entry in document.models] == ["tiny", "other"]
    assert [(entry.version, entry.state, entry.default) for entry in document.models[0].versions] == [
        ("1", "loaded", True)
    ]
    [third] = document.unloaded
    assert third.name == "third" and third.versions[0].state == "failed"
    assert "manifest says other" in str(third.versions[0].failure)
    assert server.client.get("/models/tiny/samples/tiles.jpg").status_code == 200


def test_a_folder_that_was_replaced_is_read_anew(folder: Path, tmp_path: Path, start: Start) -> None:
    shutil.rmtree(folder / "tiny")
    shutil.move(add_version(tmp_path / "one", "1"), folder / "tiny")
    server = start()
    assert_answers(server, "1")
    shutil.move(folder / "tiny", tmp_path / "old")
    shutil.move(add_version(tmp_path / "two", "2"), folder / "tiny")
    assert load(server).status_code == 200
    assert_answers(server, "2")
    assert states(server) == {"2": "loaded"}


@pytest.mark.parametrize(
    ("trouble", "status", "slug", "says"),
    [
        ("corrupt", 422, "bad-model", "weights.bin is not the file the manifest lists"),
        ("missing", 422, "bad-model", "weights.bin is listed in manifest.json but missing"),
        ("refuse on load", 500, "load-failed", "no meaning (while opening tiny@2)"),
        ("refuse on warm-up", 500, "load-failed", "no meaning (while warming up tiny@2)"),
        ("crash on load", 500, "load-failed", "died while opening tiny@2 (exit status 7)"),
        ("crash on warm-up", 500, "load-failed", "died while warming up tiny@2 (exit status 7)"),
        ("hang on load", 500, "load-failed", f"no progress for {START_SECONDS} s while opening tiny@2"),
        ("hang on warm-up", 500, "load-failed", f"no progress for {START_SECONDS} s while warming up tiny@2"),
    ],
)
def test_what_cannot_be_loaded_leaves_everything_as_it_was(
    folder: Path, start: Start, trouble: str, status: int, slug: str, says: str
) -> None:
    server = start()
    before = workers(server)
    path = add_version(folder, "2", trouble)
    if trouble == "corrupt":
        (path / "weights.bin").write_bytes(b"\0\0\0\0")
    elif trouble == "missing":
        (path / "weights.bin").unlink()
    assert says in assert_problem(load(server), status, slug)["detail"]
    assert states(server) == {"2": "failed", "1": "loaded"}
    document = server.client.get("/models/tiny").json()
    assert says in document["versions"][0]["failure"]
    assert_answers(server, "1")
    assert workers(server) == before
    assert server.client.get("/readyz").json()["workers"][0]["failure"] is None
    shutil.rmtree(path)
    add_version(folder, "2")
    assert load(server).status_code == 200
    assert_answers(server, "2")
    assert states(server) == {"2": "loaded", "1": "unloaded"}


def test_a_slow_start_that_is_at_work_is_waited_for(folder: Path, start: Start) -> None:
    server = start()
    add_version(folder, "2", "work on load")  # twice as long as a silent worker may take
    response = load(server)
    assert response.status_code == 200 and response.json()["last_change"]["seconds"] > START_SECONDS


def test_a_start_has_a_limit_even_at_work(folder: Path, start: Start) -> None:
    server = start(start_limit=4)
    add_version(folder, "2", "work on load")
    problem = assert_problem(load(server), 500, "load-failed")
    assert "not up within 4 s, still opening tiny@2" in problem["detail"]
    assert_answers(server, "1")


def test_one_change_at_a_time_and_one_that_nobody_waits_for(folder: Path, start: Start) -> None:
    server = start()
    add_version(folder, "2", "hang on load")
    response = load(server, wait="false")
    assert response.status_code == 202
    assert response.json()["last_change"]["state"] == "running"
    assert states(server) == {"2": "loading", "1": "loaded"}
    for refused in (load(server), load(server, "other"), unload(server, "other")):
        assert "the load of tiny" in assert_problem(refused, 409, "change-in-progress")["detail"]
    wait_until(
        lambda: server.client.get("/models/tiny").json()["last_change"]["steps"] == ["cpu: opening tiny@2"],
        "its step to show",
    )
    assert_answers(server, "1")
    wait_until(lambda: states(server)["2"] == "failed", "it to fail")
    assert "no progress" in server.client.get("/models/tiny").json()["last_change"]["failure"]
    assert load(server, "other").status_code == 200


def test_a_load_goes_on_when_its_client_leaves(folder: Path, start: Start) -> None:
    server = start()
    add_version(folder, "2")
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/models/tiny/load", timeout=0.05)
    wait_until(lambda: states(server)["2"] == "loaded", "the load to end")
    assert_answers(server, "2")


def test_the_default_model_and_so_the_last_one_stays(start: Start) -> None:
    server = start()
    assert_problem(unload(server, "tiny"), 409, "default-model")
    assert_problem(unload(server, "tiny", version="1"), 409, "default-model")
    assert unload(server, "other").status_code == 200
    assert_problem(detect(server, "other"), 404, "model-not-found")
    assert states(server, "other") == {"1": "unloaded"}
    assert_problem(unload(server, "other"), 404, "model-not-found")
    assert_problem(unload(server, "tiny"), 409, "default-model")
    assert load(server, "other").status_code == 200
    assert_answers(server, "1", "other")


def test_what_waits_for_an_unloaded_model_is_still_answered(start: Start) -> None:
    server = start(milliseconds=300, max_batch=1, max_queue_seconds=60)
    with ThreadPoolExecutor(8) as clients:
        waiting = [clients.submit(detect, server, "other") for _ in range(8)]
        wait_until(lambda: server.metric("hindsight_queue_depth") >= 6, "images to wait")
        assert unload(server, "other").status_code == 200
        assert_problem(detect(server, "other"), 404, "model-not-found")
        responses = [each.result() for each in waiting]
    assert [response.status_code for response in responses] == [200] * 8
    assert {response.json()["model"] for response in responses} == {"other"}
    wait_until(lambda: len(workers(server)) == 1, "the old worker to end")


def test_a_body_that_comes_slowly_keeps_its_model(folder: Path, start: Start) -> None:
    """Its image is letterboxed after the switch, by the rule of the version that it began with."""
    server = start()
    add_version(folder, "2")
    half_sent, go_on = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield TILES[:100]
        half_sent.set()
        assert go_on.wait(60)
        yield TILES[100:]

    with ThreadPoolExecutor(1) as clients:
        answer = clients.submit(server.client.post, "/detect", content=body())
        assert half_sent.wait(60)
        assert load(server).status_code == 200
        assert len(workers(server)) == 2
        go_on.set()
        document = answer.result().json()
    assert document["version"] == "1"
    assert_of_one_version(document)
    wait_until(lambda: len(workers(server)) == 1, "the old worker to end")


def test_a_worker_that_dies_while_another_loads_is_replaced(folder: Path, start: Start) -> None:
    server = start()
    add_version(folder, "2", "hang on load")
    load(server, wait="false")
    wait_until(lambda: len(workers(server)) == 2, "the second worker")
    lost = server.worker_pid()
    os.kill(lost, signal.SIGKILL)
    wait_until(lambda: server.worker_pid() != lost, "the first worker's successor")
    assert_answers(server, "1")
    wait_until(lambda: states(server)["2"] == "failed", "the load to fail")
    assert_answers(server, "1")


def test_after_a_switch_a_dead_worker_is_replaced_by_one_of_the_new_version(
    folder: Path, start: Start
) -> None:
    server = start()
    add_version(folder, "2")
    assert load(server).status_code == 200
    lost = server.worker_pid()
    os.kill(lost, signal.SIGKILL)
    wait_until(lambda: server.worker_pid() != lost, "a new worker")
    assert_answers(server, "2")


def test_a_load_mends_a_server_whose_worker_no_longer_starts(
    folder: Path, tmp_path: Path, start: Start
) -> None:
    """Its files were changed, then it died: no version's name ever stands on another's answer."""
    server = start()
    shutil.move(folder / "tiny" / "1", tmp_path / "away")
    add_version(folder, "1", name="tiny")
    (folder / "tiny" / "1" / "MODEL_CARD.md").write_text("changed")
    lost = server.worker_pid()
    os.kill(lost, signal.SIGKILL)

    def readiness() -> Readiness:
        return Readiness.model_validate(server.client.get("/readyz").json())

    wait_until(lambda: readiness().workers[0].state == "failed", "the restart to fail")
    assert "MODEL_CARD.md" in str(readiness().workers[0].failure)
    assert_problem(detect(server), 503, "engine-unavailable")
    add_version(folder, "2")
    assert load(server).status_code == 200
    assert_answers(server, "2")


def test_names_that_are_no_names_are_refused(start: Start) -> None:
    server = start()
    for name in ("..%2F..%2Fetc", "%2e%2e", ".hidden", "a%00b", "%2Fetc", "a" * 200):
        assert server.client.post(f"/models/{name}/load").status_code in (404, 422), name
    assert_problem(load(server, version="../1"), 422, "invalid-request")
    assert_problem(load(server, "nope"), 404, "model-not-found")
    assert_problem(load(server, version="9"), 404, "model-not-found")
    assert_problem(load(server, versoin="1"), 422, "invalid-request")
    assert_problem(server.client.get("/models/nope"), 404, "model-not-found")
    assert_answers(server, "1")


def test_two_devices_change_together(folder: Path, start: Start) -> None:
    server = start("--device", "cpu", "--device", "cpu:1")
    add_version(folder, "2")
    assert load(server).status_code == 200
    wait_until(lambda: len(workers(server)) == 2, "both old workers to end")
    with ThreadPoolExecutor(8) as clients:
        answers = [each.result().json() for each in [clients.submit(detect, server) for _ in range(16)]]
    assert {answer["version"] for answer in answers} == {"2"}


def test_a_real_runtime_changes_its_version_too(tmp_path: Path) -> None:
    path = make_tiny_artifact(tmp_path / "tiny").path
    with serving(tmp_path / "server", "--model", str(path), admin=True) as server:
        assert_finds_tiles(detect(server).json())
        shutil.move(path, tmp_path / "old")
        make_tiny_artifact(path, version="2", integrity=0.5, resize=LARGE)
        assert load(server).status_code == 200
        document = server.client.post("/detect", content=encode(tiles_image(192, 320))).json()
    assert document["version"] == "2" and len(document["detections"]) == 8
    assert document["detections"][0]["integrity"] == pytest.approx(0.5)
