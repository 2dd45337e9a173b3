"""What one image does wrong, or the device cannot take, is nobody else's matter."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.rough_runtime import (
    ANSWERS_INFINITY,
    ANSWERS_NAN,
    FAILS,
    executed,
    marked,
    serving_roughly,
)
from tests.e2e.test_kserve_rest import images_input, refused, tensor_inputs
from tests.e2e.triton_http import TritonClient
from tests.factories import encode, make_tiny_artifact, tiles_image
from tests.server_process import (
    ServerProcess,
    assert_finds_tiles,
    assert_problem,
    serving,
    stopped_worker,
    wait_until,
)

ROOM = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With room for two images a batch."""
    # The wait in stopped_worker counts as work: no length of it may make batches smaller.
    limits = {"batch_work_seconds": 3600, "max_queue_seconds": 60, "decode_threads": 1}
    folder = tmp_path_factory.mktemp("rough")
    tiny = make_tiny_artifact(folder / "tiny").path
    with serving_roughly(folder, f"rough:{ROOM}", [tiny], **limits) as running:
        yield running


def detect_many(server: ServerProcess, marks: list[int]) -> list[dict[str, Any]]:
    files = [("image", (f"{mark}.png", marked(mark))) for mark in marks]
    answer = server.client.post("/detect", files=files)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    assert len(results) == len(marks)
    return results


def rows(document: dict[str, Any]) -> Any:
    return document["detections"]


def test_what_fails_fails_alone_and_its_neighbours_answers_are_as_if_alone(server: ServerProcess) -> None:
    marks = [10, FAILS, 11, ANSWERS_NAN, 12, ANSWERS_INFINITY, 13, 14]
    results = detect_many(server, marks)
    for mark, result in zip(marks, results, strict=True):
        if mark >= 10:
            assert_finds_tiles(result)
            alone = server.client.post("/detect", content=marked(mark)).json()
            assert rows(result) == rows(alone)
    assert [results[place]["type"] for place in (1, 3, 5)] == [
        "/docs#runtime-failure",
        "/docs#non-finite-output",
        "/docs#non-finite-output",
    ]
    assert results[3]["code"] == "non-finite-output" and "scores" in results[3]["detail"]
    assert server.metric("hindsight_bad_outputs_total") == 2


def test_an_image_alone_is_answered_by_its_own_problem(server: ServerProcess) -> None:
    for mark, slug in [(FAILS, "runtime-failure"), (ANSWERS_NAN, "non-finite-output")]:
        assert_problem(server.client.post("/detect", content=marked(mark)), 500, slug)
    boxes = {"boxes": (None, "[[0, 0, 20, 20]]")}
    answer = server.client.post("/rescore", files={"image": marked(ANSWERS_NAN), **boxes})
    assert_problem(answer, 500, "non-finite-output")


def test_kserve_calls_a_bad_output_by_its_name_and_counts_it(server: ServerProcess) -> None:
    pixels = tiles_image()
    pixels[0, 0, 2] = ANSWERS_NAN
    before = server.metric("hindsight_bad_outputs_total")
    with TritonClient(f"127.0.0.1:{server.port}", network_timeout=60) as client:
        status, message = refused(client.infer, "tiny.tensor", tensor_inputs(1, images=pixels[None]))
        assert status == "500" and "not all finite" in message
        image = images_input([marked(ANSWERS_NAN)])
        assert refused(client.infer, "tiny", [image])[0] == "500"
    assert server.metric("hindsight_bad_outputs_total") == before + 2


def test_a_batch_that_does_not_fit_is_halved_until_it_does(server: ServerProcess) -> None:
    marks = list(range(20, 36))
    before = len(executed(server)) + 1
    with ThreadPoolExecutor(1) as pool:
        with stopped_worker(server):  # until all wait, and so share a batch
            results = pool.submit(detect_many, server, marks)
            wait_until(lambda: server.metric("hindsight_queue_depth") == len(marks), "all to wait")
        for result in results.result():
            assert_finds_tiles(result)
    batches = executed(server)[before:]
    fitted = [mark for batch in batches if len(batch) <= ROOM for mark in batch]
    assert sorted(fitted) == marks, "each image ran once"
    # Here, or before: what was found not to fit is not tried again for a while.
    assert any(len(batch) > ROOM for batch in executed(server)) and server.log("batch did not fit")
    assert server.metric("hindsight_out_of_memory_total") >= 1


def test_a_broken_file_among_many_is_its_own_problem(server: ServerProcess) -> None:
    files = [("image", ("a.png", marked(40))), ("image", ("b.png", marked(41)[:60]))]
    sound, broken = server.client.post("/detect", files=files).json()["results"]
    assert_finds_tiles(sound)
    assert broken["type"] == "/docs#corrupt-image"


def test_memory_for_images_is_given_back_whatever_happens(server: ServerProcess) -> None:
    wait_until(lambda: server.metric("hindsight_image_memory_bytes") == 0, "all memory to be given back")
    assert server.metric("hindsight_queue_depth") == 0


def test_images_wait_for_memory_and_those_larger_than_all_of_it_are_refused(tmp_path: Path) -> None:
    tiny = make_tiny_artifact(tmp_path / "tiny")
    budget = 14 * 96 * 160 * 2 + 2 * 3 * 96 * 160  # two of our pictures at a time
    with serving(tmp_path / "run", "--model", str(tiny.path), max_decoded_bytes=budget) as server:
        files = [("image", (f"{mark}.png", marked(mark))) for mark in range(32)]
        answer = server.client.post("/detect", files=files)
        for result in answer.json()["results"]:
            assert_finds_tiles(result)
        large = encode(tiles_image(480, 800))
        problem = assert_problem(server.client.post("/detect", content=large), 413, "image-too-large")
        assert str(budget) in problem["detail"]
        wait_until(lambda: server.metric("hindsight_image_memory_bytes") == 0, "all memory to be given back")


def test_what_the_batches_of_one_request_learn_is_told_to_prometheus(server: ServerProcess) -> None:
    text = httpx.get(f"{server.url}/metrics").text
    for name in ("hindsight_queue_wait_seconds", "hindsight_image_memory_bytes"):
        assert f"\n{name} " in text
