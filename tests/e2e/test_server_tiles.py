"""Large images in tiles, through a real server: the library's answer, and every tile an image like others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import hindsight
from hindsight.decode import footprint
from hindsight.errors import OptionError, ServiceError
from hindsight.manifest import ResizeRule
from hindsight.tiling import Tiling
from service.keys import create_key
from tests.e2e.rough_runtime import FAILS, executed, marked, serving_roughly
from tests.factories import encode, make_tiny_artifact
from tests.server_process import ServerProcess, assert_problem, serving, stopped_worker, wait_until

SIDE = 96  # of the model's input and of a tile: nothing is scaled
GRID = {"tile": SIDE, "overlap": 0}
MOST = 25  # images of a request


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    rule = ResizeRule(SIDE, SIDE, 32)
    make_tiny_artifact(folder / "tiny", resize=rule)
    make_tiny_artifact(folder / "masked", name="masked", resize=rule, masks=True)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[ServerProcess]:
    limits = {
        "timeout": 100,
        "max_timeout": 100,
        "hang_timeout": 300,
        "max_queue_seconds": 60,
        "max_images": MOST,
    }
    served = [models / name for name in ("tiny", "masked")]
    with serving_roughly(tmp_path_factory.mktemp("server"), "rough", served, **limits) as running:
        yield running


def photo(height: int = 250, width: int = 330, mark: int = 0) -> NDArray[np.uint8]:
    """Squares of several colours and sizes at odd places. mark: the blue of all that is black."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, :, 2] = mark
    for x, y, size, channel in ((20, 30, 40, 0), (90, 80, 32, 1), (150, 10, 64, 0), (200, 150, 90, 1)):
        image[y : y + size, x : x + size] = 0
        image[y : y + size, x : x + size, channel] = 255
    return image


def post(server: ServerProcess, content: bytes, **query: object) -> httpx.Response:
    headers = {"X-Request-Timeout": str(query.pop("timeout", 100))}
    return server.client.post("/detect", content=content, params=query, headers=headers)  # type: ignore[arg-type]


def assert_same(document: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    assert len(document["detections"]) == len(expected) > 0
    for got, wanted in zip(document["detections"], expected, strict=True):
        assert got["box"] == pytest.approx(wanted["box"], abs=2e-3)
        assert got["label"] == wanted["label"]
        for key in ("score", "class_score", "iou", "purity", "integrity"):
            assert got[key] == pytest.approx(wanted[key], abs=1e-4)


@pytest.mark.parametrize("model", ["tiny", "masked"])
@pytest.mark.parametrize(
    "options",
    [
        {"tile": SIDE},
        {"tile": SIDE, "overlap": 0.4, "whole": False},
        {"tile": 128, "overlap": 0, "score_threshold": 0.05, "nms_threshold": 0.3},
        {"tile": 200, "max_detections": 3},
        {"tile": 1000},
        {"tile": SIDE, "classes": "green"},
    ],
)
def test_the_servers_answer_is_the_librarys(
    server: ServerProcess, models: Path, model: str, options: dict[str, Any]
) -> None:
    answer = post(server, encode(photo()), model=model, **options)
    assert answer.status_code == 200, answer.text
    with hindsight.load(models / model, threads=1) as detector:
        expected = detector.detect(photo(), **options).to_records()
    assert_same(answer.json(), expected)
    if model == "masked":
        got = [each["segmentation"] for each in answer.json()["detections"]]
        assert got == [each["segmentation"] for each in expected]


def test_the_client_passes_it_on(server: ServerProcess) -> None:
    client = hindsight.Client(server.url)
    options: dict[str, Any] = {"tile": SIDE, "overlap": 0.1, "whole": False}
    found = client.detect(photo(), **options)
    assert_same(post(server, encode(photo()), **options).json(), found.to_records())
    with pytest.raises(OptionError, match="give tile"):
        client.detect(photo(), overlap=0.1)
    with pytest.raises(ServiceError, match=f"at most {MOST}"):
        client.detect(photo(2000, 2000), tile=SIDE)


def test_a_turned_photo_is_cut_upright(server: ServerProcess, models: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    lying = np.ascontiguousarray(np.rot90(photo(), 1))
    for kind in ("PNG", "TIFF"):
        document = post(server, encode(lying, kind, exif=exif), tile=128).json()
        assert document["image"] == {"width": 330, "height": 250}
        assert_same(document, post(server, encode(photo()), tile=128).json()["detections"])


def test_several_images_and_one_that_cannot_be_read(server: ServerProcess) -> None:
    cut_short = encode(np.random.default_rng(0).integers(0, 256, (90, 90, 3), np.uint8))[:2000]
    pictures = [encode(photo()), b"not an image", encode(photo(90, 90)), cut_short]
    answer = server.client.post("/detect", files=[("image", ("x", each)) for each in pictures], params=GRID)
    first, second, third, fourth = answer.json()["results"]
    assert_same(first, post(server, pictures[0], **GRID).json()["detections"])
    assert third["detections"] == post(server, pictures[2]).json()["detections"], "fits into one tile"
    assert (second["type"], fourth["type"]) == ("/docs#unsupported-image", "/docs#corrupt-image")


def test_the_picture_shows_the_tiles_boxes(server: ServerProcess) -> None:
    answer = post(server, encode(photo()), annotate="true", **GRID)
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content != post(server, encode(photo()), annotate="true").content


@pytest.mark.parametrize(
    ("query", "status", "slug", "words"),
    [
        ({"tile": 31}, 422, "bad-option", "at least 32"),
        ({"tile": -1}, 422, "bad-option", "at least 32"),
        ({"tile": "big"}, 422, "invalid-request", "tile"),
        ({"tile": 96.5}, 422, "invalid-request", "tile"),
        ({"tile": 96, "overlap": 1}, 422, "bad-option", "0..0.9"),
        ({"tile": 96, "overlap": "nan"}, 422, "bad-option", "0..0.9"),
        ({"overlap": 0.2}, 422, "bad-option", "give tile"),
        ({"whole": "false"}, 422, "bad-option", "give tile"),
        ({"tile": 32, "overlap": 0.5}, 413, "too-many-images", "larger tiles"),
        ({"tile": 96, "max_detections": 20 * MOST + 1}, 422, "bad-option", "max_detections"),
        ({"tiles": 96}, 422, "invalid-request", "'tile'"),
    ],
)
def test_what_cannot_be_asked_for_is_named(
    server: ServerProcess, query: dict[str, Any], status: int, slug: str, words: str
) -> None:
    problem = assert_problem(post(server, encode(photo()), **query), status, slug)
    assert words in problem["detail"]


def test_the_tiles_of_all_images_count_as_images_of_the_request(server: ServerProcess) -> None:
    one = Tiling(SIDE, 0.0).count((250, 330))
    assert one <= MOST < 2 * one
    files = [("image", ("x", encode(photo())))]
    assert server.client.post("/detect", files=files, params=GRID).status_code == 200
    problem = assert_problem(
        server.client.post("/detect", files=files * 2, params=GRID), 413, "too-many-images"
    )
    assert f"{2 * one} images" in problem["detail"] and f"at most {MOST}" in problem["detail"]


def test_every_tile_is_counted(server: ServerProcess) -> None:
    count = Tiling(SIDE, 0.0).count((250, 330))
    before = server.metric("hindsight_images_total")
    timings = post(server, encode(photo()), **GRID).json()["timings_ms"]
    assert server.metric("hindsight_images_total") == before + count
    assert set(timings) >= {"decode", "letterbox", "queue", "model", "postprocess", "total"}
    assert timings["model"] <= timings["total"], "a batch's time counts once, not for each of its tiles"
    assert server.log("request")[-1]["images"] == count


def test_one_tile_that_the_model_refuses_fails_its_image_alone(server: ServerProcess) -> None:
    bad = photo()
    bad[SIDE - 12 : 2 * SIDE, :, 2] = FAILS  # a row of tiles
    files = [("image", ("x", encode(bad))), ("image", ("x", encode(photo(90, 90))))]
    gone = dropped(server, "disconnected")
    first, second = server.client.post("/detect", files=files, params=GRID).json()["results"]
    assert first["type"] == "/docs#runtime-failure" and "detections" in second
    assert_problem(post(server, encode(bad), **GRID), 500, "runtime-failure")
    nothing_held(server)
    assert dropped(server, "disconnected") == gone, "the other tiles' client is still there"


def test_past_its_deadline_no_tile_runs(server: ServerProcess) -> None:
    with stopped_worker(server, marked(200)):
        answer = post(server, encode(photo(mark=61)), timeout=1.5, **GRID)
        assert_problem(answer, 504, "deadline-exceeded")
    assert post(server, marked(62)).status_code == 200
    assert not [batch for batch in executed(server) if 61 in batch]
    nothing_held(server)


def test_who_leaves_takes_all_tiles_out_of_the_queue(server: ServerProcess) -> None:
    count, before = Tiling(SIDE, 0.0).count((250, 330)), server.left()
    with stopped_worker(server, marked(200)):
        raw = socket.create_connection(("127.0.0.1", server.port), timeout=60)
        body = encode(photo(mark=63))
        head = (
            f"POST /detect?tile={SIDE}&overlap=0 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        raw.sendall(head.encode() + body)
        wait_until(lambda: server.metric("hindsight_queue_depth") == count, "all tiles to wait")
        raw.close()
        wait_until(lambda: server.metric("hindsight_queue_depth") == 0, "all tiles to leave")
        wait_until(lambda: server.left() == before + 1, "the client to be missed")
    assert post(server, marked(64)).status_code == 200
    assert not [batch for batch in executed(server) if 63 in batch]
    nothing_held(server)


def test_a_single_image_does_not_wait_for_all_tiles_of_another_request(server: ServerProcess) -> None:
    count = Tiling(SIDE, 0.0).count((250, 330))
    with ThreadPoolExecutor(2) as pool:
        with stopped_worker(server, marked(200)):
            tiled = pool.submit(post, server, encode(photo(mark=34)), **GRID)
            wait_until(lambda: server.metric("hindsight_queue_depth") == count, "all tiles to wait")
            single = pool.submit(post, server, encode(photo(SIDE, SIDE, mark=35)))
            wait_until(lambda: server.metric("hindsight_queue_depth") == count + 1, "both to wait")
        assert (tiled.result().status_code, single.result().status_code) == (200, 200)
    batches = executed(server)
    [place] = [place for place, batch in enumerate(batches) if 35 in batch]
    assert [batch for batch in batches[place:] if 34 in batch], "the last tiles did not come before it"


def test_tiles_are_charged_to_the_key(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.jsonl"
    count = Tiling(SIDE, 0.0).count((250, 330))
    key = create_key(file, "slow", "user", rate=0.001, burst=count + 1)
    with serving(tmp_path / "run", "--model", str(models / "tiny"), keys_file=file) as running:

        def send(**query: object) -> httpx.Response:
            headers = {"authorization": f"Bearer {key}"}
            return running.client.post(
                "/detect",
                content=encode(photo()),
                params=query,  # type: ignore[arg-type]
                headers=headers,
            )

        assert send(**GRID).status_code == 200
        assert send().status_code == 200
        assert_problem(send(), 429, "rate-limited")


def test_tiles_count_in_the_memory_for_images(models: Path, tmp_path: Path) -> None:
    """Enough for the image, and not for its tiles as well."""
    content = encode(photo(256, 256))
    limit = footprint(content).working_bytes + 200_000
    with serving(tmp_path / "run", "--model", str(models / "tiny"), max_decoded_bytes=limit) as running:
        assert running.client.post("/detect", content=content).status_code == 200
        answer = running.client.post("/detect", content=content, params={"tile": SIDE})
        assert_problem(answer, 413, "image-too-large")
        assert running.metric("hindsight_image_memory_bytes") == 0


def test_the_description_knows_them(server: ServerProcess) -> None:
    operation = server.client.get("/openapi.json").json()["paths"]["/detect"]["post"]
    parameters = {each["name"]: each for each in operation["parameters"]}
    assert {"tile", "overlap", "whole"} <= set(parameters)
    assert parameters["tile"]["schema"]["minimum"] == 32


def dropped(server: ServerProcess, reason: str) -> float:
    line = f'hindsight_drops_total{{model="tiny",reason="{reason}"}} '
    rows = server.client.get("/metrics").text.splitlines()
    return next((float(row.removeprefix(line)) for row in rows if row.startswith(line)), 0.0)


def nothing_held(server: ServerProcess) -> None:
    wait_until(lambda: server.metric("hindsight_image_memory_bytes") == 0, "all memory to be given back")
    assert server.metric("hindsight_queue_depth") == 0
