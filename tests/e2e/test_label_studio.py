"""Label Studio's requests, replayed as it sends them, against a running server."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.factories import encode, make_tiny_artifact, tiles_image
from tests.server_process import TILES, ServerProcess, assert_problem, serving, wait_until

CONFIG = """<View>
  <Image name="photo" value="$image" zoom="true"/>
  <RectangleLabels name="tiles" toName="photo" model_score_threshold="0.2">
    <Label value="Red" background="#d62728"/>
    <Label value="Plants" alias="plant" predicted_values="green, moss"/>
  </RectangleLabels>
</View>"""
PNG = encode(tiles_image(192, 320))
DATA_URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


def task(image: object, number: int = 311) -> dict[str, Any]:
    """A task as Label Studio serializes it."""
    return {
        "id": number,
        "data": {"image": image},
        "meta": {},
        "created_at": "2026-03-19T23:15:01.004453Z",
        "updated_at": "2026-03-20T01:55:39.644616Z",
        "is_labeled": False,
        "overlap": 1,
        "inner_id": 11,
        "total_annotations": 0,
        "cancelled_annotations": 0,
        "total_predictions": 0,
        "comment_count": 0,
        "unresolved_comment_count": 0,
        "last_comment_updated_at": None,
        "project": 3,
        "updated_by": 1,
        "file_upload": 7,
        "comment_authors": [],
        "annotations": [],
        "predictions": [],
    }


def predict_request(*tasks: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        "tasks": list(tasks),
        "project": "3.1710890019",
        "label_config": CONFIG,
        "params": {"login": None, "password": None, "context": None},
        **changed,
    }


def setup_request(schema: str = CONFIG) -> dict[str, Any]:
    return {
        "project": "3.1710890019",
        "schema": schema,
        "hostname": "http://localhost:8080",
        "access_token": "a secret that nobody here needs",
        "extra_params": None,
    }


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, and beside it what must not be read."""
    folder = tmp_path_factory.mktemp("media")
    root = folder / "root"
    for place in ("upload/3", "local files"):
        (root / place).mkdir(parents=True)
        (root / place / "tiles é.png").write_bytes(PNG)
    (folder / "secret.png").write_bytes(PNG)
    (folder / "root-beside").mkdir()
    (folder / "root-beside" / "secret.png").write_bytes(PNG)
    (root / "inside.png").symlink_to("upload/3/tiles é.png")
    (root / "outside.png").symlink_to("../secret.png")
    (root / "outside").symlink_to("..")
    (root / "loop.png").symlink_to("loop.png")
    (root / "note.txt").write_text("no image")
    (root / "huge.png").write_bytes(bytes(3_000_000))
    os.mkfifo(root / "pipe.png")
    return root


@pytest.fixture(scope="module")
def studio(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("studio")
    make_tiny_artifact(folder / "tiny")
    make_tiny_artifact(folder / "plain", name="plain", version="2", localization=False)
    models = ("--model", str(folder / "tiny"), "--model", str(folder / "plain"))
    limits = {"media_root": media, "max_body_bytes": 2_000_000, "label_studio_max_tasks": 40}
    with serving(folder, *models, **limits) as running:
        yield running
        assert [record for record in running.log() if record["level"] == "error"] == []


@pytest.fixture
def client(studio: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{studio.url}/label-studio/", timeout=60) as opened:
        yield opened


def test_connecting_a_project(client: httpx.Client, studio: ServerProcess) -> None:
    assert client.get("health").json() == {"status": "UP", "model_class": "Hindsight"}
    assert client.get(f"{studio.url}/label-studio").json()["status"] == "UP"
    assert client.post("setup", json=setup_request()).json() == {"model_version": "tiny 1"}
    assert client.post("plain/setup", json=setup_request()).json() == {"model_version": "plain 2"}
    assert client.get("plain/health").status_code == 200 and client.get("versions").json() == {
        "versions": ["tiny 1"]
    }
    unknown = assert_problem(client.get("none/health"), 404, "model-not-found")
    assert "plain" not in unknown["detail"]  # health needs no key
    assert "a secret" not in studio.log_path.read_text()


def test_predictions(client: httpx.Client, studio: ServerProcess) -> None:
    black = base64.b64encode(encode(np.zeros((96, 160, 3), np.uint8))).decode()
    request = predict_request(task(DATA_URI), task(f"data:image/png;base64,{black}", 312))
    document = client.post("predict", json=request).json()
    assert document["model_version"] == "tiny 1" and len(document["results"]) == 2
    first, second = document["results"]
    assert second == {"model_version": "tiny 1", "score": 0.0, "result": []}
    assert first["model_version"] == "tiny 1"
    red, green = first["result"]
    assert 0 < first["score"] <= 1 and first["score"] == pytest.approx((red["score"] + green["score"]) / 2)
    assert {
        key: red[key] for key in ("from_name", "to_name", "type", "original_width", "original_height")
    } == {
        "from_name": "tiles",
        "to_name": "photo",
        "type": "rectanglelabels",
        "original_width": 320,
        "original_height": 192,
    }
    assert red["value"].pop("rectanglelabels") == ["Red"]
    assert red["value"] == pytest.approx(
        {"x": 20, "y": 0, "width": 20, "height": 100 / 3, "rotation": 0}, abs=1e-3
    )
    assert green["value"]["rectanglelabels"] == ["plant"]
    assert red["image_rotation"] == 0 and red["id"] != green["id"]
    detected = studio.client.post("/detect", content=PNG).json()["detections"][0]
    assert {key: red["meta"][key] for key in ("class_score", "iou", "purity", "integrity")} == {
        key: detected[key] for key in ("class_score", "iou", "purity", "integrity")
    }
    assert red["score"] == detected["score"]
    assert red["meta"]["text"] == ["purity 0.99, integrity 0.80, IoU 0.79"]
    [plain] = client.post("plain/predict", json=predict_request(task(DATA_URI))).json()["results"]
    assert "text" not in plain["result"][0]["meta"] and plain["model_version"] == "plain 2"


@pytest.mark.parametrize(
    "reference",
    [
        "/data/upload/3/tiles%20%C3%A9.png",
        "/upload/3/tiles%20%C3%A9.png",
        "/data/local-files/?d=local%20files/tiles%20%C3%A9.png",
        "/data/local-files/?d=local+files/tiles%20é.png",
        "upload/3/tiles é.png",
        "inside.png",
        "local files/../upload/3/tiles é.png",
        DATA_URI,
    ],
)
def test_where_images_may_be(client: httpx.Client, reference: str) -> None:
    [found] = client.post("predict", json=predict_request(task(reference))).json()["results"]
    assert "error" not in found and len(found["result"]) == 2


def test_an_absolute_path_inside_the_root(client: httpx.Client, media: Path) -> None:
    reference = str(media / "upload" / "3" / "tiles é.png")
    [found] = client.post("predict", json=predict_request(task(reference))).json()["results"]
    assert len(found["result"]) == 2


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("http://127.0.0.1:9/a.png", "fetches nothing"),
        ("https://example.org/a.png", "fetches nothing"),
        ("s3://bucket/a.png", "fetches nothing"),
        ("file:///etc/passwd", "fetches nothing"),
        ("//example.org/a.png", "fetches nothing"),
        ("../secret.png", "no image"),
        ("/data/upload/../../secret.png", "no image"),
        ("/data/upload/%2e%2e/%2e%2e/secret.png", "no image"),
        ("/data/local-files/?d=../secret.png", "no image"),
        ("/data/local-files/?d=..%2fsecret.png", "no image"),
        ("/data/local-files/?d=/etc/passwd", "no image"),
        ("/data/local-files/?d=a&d=b", "?d="),
        ("/data/local-files/", "?d="),
        ("../root-beside/secret.png", "no image"),
        ("/etc/passwd", "no image"),
        ("outside.png", "no image"),
        ("outside/secret.png", "no image"),
        ("loop.png", "no image"),
        ("upload", "no image"),
        ("", "no image"),
        (".", "no image"),
        ("a\0b", "no image"),
        ("x" * 5000, "no image"),
        ("pipe.png", "no image"),
        ("missing.png", "no image"),
        ("note.txt", "image"),
        ("huge.png", "at most 2000000"),
        ("data:image/png,abc", "without base64"),
        ("data:image/png;base64,!!!", "not base64"),
        (7, "must be a text"),
        (None, "must be a text"),
    ],
)
def test_where_images_may_not_be(client: httpx.Client, reference: object, words: str) -> None:
    request = predict_request(task(DATA_URI), task(reference), task("inside.png"))
    answer = client.post("predict", json=request)
    assert answer.status_code == 200, answer.text
    before, refused, after = answer.json()["results"]
    assert len(before["result"]) == len(after["result"]) == 2
    assert refused["result"] == [] and words in refused["error"] and refused["score"] == 0
    assert "root" not in refused["error"].replace("MEDIA_ROOT", "").replace("root-beside", "")


def test_a_server_without_a_media_root(tmp_path: Path) -> None:
    make_tiny_artifact(tmp_path / "tiny")
    with serving(tmp_path, "--model", str(tmp_path / "tiny"), "--backend", "sleep:1") as server:
        request = predict_request(task("a.png"), task("/data/upload/3/a.png"), task(DATA_URI))
        results = server.client.post("/label-studio/predict", json=request).json()["results"]
        assert [("HINDSIGHT_MEDIA_ROOT" in each.get("error", "")) for each in results] == [True, True, False]


def test_more_tasks_than_one_request_holds_images(client: httpx.Client) -> None:
    many = [task("inside.png", number) for number in range(37)]
    results = client.post("predict", json=predict_request(*many)).json()["results"]
    assert [len(each["result"]) for each in results] == [2] * 37
    too_many = predict_request(*[task("inside.png", number) for number in range(41)])
    assert_problem(client.post("predict", json=too_many), 413, "too-many-images")
    assert client.post("predict", json=predict_request()).json()["results"] == []


def test_what_a_task_says_of_itself_does_not_fill_the_log(
    client: httpx.Client, studio: ServerProcess
) -> None:
    for number in ("x" * 1_000_000, list(range(100_000)), 10**300, 17):
        answer = client.post("predict", json=predict_request({"id": number, "data": {"image": "none.png"}}))
        assert "no image" in answer.json()["results"][0]["error"]
    logged = [record["task"] for record in studio.log("no prediction for a task")[-4:]]
    assert logged == ["x" * 64, None, None, 17]


def test_requests_without_one_readable_image_hold_nothing(tmp_path: Path) -> None:
    """They did: each was taken for one that waits, for ever, so that the server was never idle again."""
    make_tiny_artifact(tmp_path / "tiny")
    limits = {"max_queue_seconds": 0.01, "max_queue": 64}
    arguments = ("--model", str(tmp_path / "tiny"), "--backend", "sleep:20")
    with serving(tmp_path, *arguments, **limits) as server:
        for _ in range(3):
            unreadable = server.client.post("/label-studio/predict", json=predict_request(task("none.png")))
            assert "MEDIA_ROOT" in unreadable.json()["results"][0]["error"]
        files = [("image", ("a.png", TILES))] * 64
        assert server.client.post("/detect", files=files).status_code == 200


def test_tasks_without_the_image(client: httpx.Client) -> None:
    strange: list[Any] = [{}, 7, {"data": {"text": "x"}}, {"data": []}]
    results = client.post("predict", json=predict_request(*strange)).json()["results"]
    assert [each["result"] for each in results] == [[]] * 4 and all(each["error"] for each in results)
    unnamed = {"data": {"$undefined$": DATA_URI}}
    [found] = client.post("predict", json=predict_request(unnamed)).json()["results"]
    assert len(found["result"]) == 2


@pytest.mark.parametrize(
    ("config", "status", "slug", "words"),
    [
        ("", 400, "bad-body", "not XML"),
        ("<View>", 400, "bad-body", "not XML"),
        ("\ud800", 400, "bad-body", "not XML"),
        ("<View>" * 5000, 400, "bad-body", "not XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><View>&b;</View>', 400, "bad-body", "DOCTYPE"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><View/>', 400, "bad-body", "DOCTYPE"),
        ("<View>" + " " * 1_000_000 + "</View>", 400, "bad-body", "1000000"),
        ("<View/>", 422, "bad-option", "RectangleLabels"),
        (CONFIG.replace('toName="photo"', 'toName="other"'), 422, "bad-option", "RectangleLabels"),
        (CONFIG.replace("toName=", 'model_skip="true" toName='), 422, "bad-option", "RectangleLabels"),
        (CONFIG.replace('"$image"', '"photo.png"'), 422, "bad-option", "$KEY"),
        (CONFIG.replace('"0.2"', '"much"'), 422, "bad-option", "0..1"),
        (CONFIG.replace("Red", "Reed").replace("green, moss", ""), 422, "bad-option", "predicted_values"),
    ],
)
def test_configurations_that_cannot_be_served(
    client: httpx.Client, config: str, status: int, slug: str, words: str
) -> None:
    for path, request in [
        ("setup", setup_request(config)),
        ("predict", predict_request(task(DATA_URI), label_config=config)),
    ]:
        answer = client.post(path, content=json.dumps(request))
        assert words in assert_problem(answer, status, slug)["detail"]


def test_a_threshold_out_of_range(client: httpx.Client) -> None:
    request = predict_request(task(DATA_URI), label_config=CONFIG.replace('"0.2"', '"7"'))
    assert (
        "score_threshold" in assert_problem(client.post("predict", json=request), 422, "bad-option")["detail"]
    )


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b"{}", 400),
        (b'{"tasks": {}}', 400),
        (b'{"tasks": [], "label_config": 7}', 400),
        (b'{"tasks": [' + b"0," * 900_000 + b"0]}", 413),
        (b" " * 2_100_000, 413),
    ],
)
def test_malformed_requests(client: httpx.Client, body: bytes, status: int) -> None:
    assert client.post("predict", content=body).status_code == status


def test_webhooks_are_answered_politely(client: httpx.Client) -> None:
    event = {"action": "ANNOTATION_CREATED", "project": {"id": 3, "label_config": CONFIG}, "task": {"id": 1}}
    for path in ("webhook", "train", "plain/webhook"):
        assert client.post(path, json=event).json()["status"] == "ignored"


def test_detects_own_format_is_unchanged(client: httpx.Client, studio: ServerProcess) -> None:
    answer = studio.client.post("/detect", content=TILES, params={"format": "labelstudio"}).json()
    assert [each["value"]["rectanglelabels"] for each in answer["result"]] == [["red"], ["green"]]
    assert answer["result"][0]["from_name"] == "label" and answer["result"][0]["to_name"] == "image"


def test_a_full_queue_fails_the_request_and_not_a_task(tmp_path: Path) -> None:
    """Label Studio would keep an empty prediction."""
    make_tiny_artifact(tmp_path / "tiny")
    limits = {"max_queue": 1, "max_images": 1, "max_batch": 1, "max_queue_seconds": 60}
    arguments = ("--model", str(tmp_path / "tiny"), "--backend", "sleep:1500")
    with serving(tmp_path, *arguments, **limits) as server, ThreadPoolExecutor(2) as clients:
        before = server.metric("hindsight_batch_size_count")
        running = clients.submit(server.client.post, "/detect", content=TILES)
        wait_until(lambda: server.metric("hindsight_batch_size_count") == before + 1, "one to run")
        waiting = clients.submit(server.client.post, "/detect", content=TILES)
        wait_until(lambda: server.metric("hindsight_queue_depth") == 1, "one to wait")
        refused = server.client.post("/label-studio/predict", json=predict_request(task(DATA_URI)))
        assert_problem(refused, 503, "busy")
        assert [each.result().status_code for each in (running, waiting)] == [200, 200]
