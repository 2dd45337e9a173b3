"""Bodies that clients send to a running server: forms, counts and sizes."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.schemas import DetectManyResponse, DetectResponse, ProblemDocument
from tests.factories import encode
from tests.server_process import TILES, ServerProcess, assert_finds_tiles, assert_problem

pytestmark = pytest.mark.usefixtures("healthy_afterwards")


def test_raw_multipart_and_json_bodies_give_the_same_answer(client: httpx.Client) -> None:
    text = base64.b64encode(TILES).decode()
    answers = [
        client.post("/detect", content=TILES, headers={"content-type": kind})
        for kind in (
            "image/png",
            "application/octet-stream",
            "application/x-www-form-urlencoded",
            "IMAGE/PNG; q=1",
        )
    ]
    answers.append(client.post("/detect", content=TILES))
    answers.append(client.post("/detect", files={"image": ("a.png", TILES)}))
    answers.append(client.post("/detect", json={"image": text}))
    answers.append(client.post("/detect", json={"image": f"data:image/png;base64,{text}"}))
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert_finds_tiles(answer.json())
        assert set(answer.json()["timings_ms"]) >= {"decode", "letterbox", "queue", "model", "total"}


def test_many_images_are_answered_in_order_and_a_bad_one_fails_alone(client: httpx.Client) -> None:
    black = encode(np.zeros((96, 160, 3), np.uint8))
    files = [("image", ("a", each)) for each in (TILES, b"no image", black, TILES[:200], TILES)]
    answer = client.post("/detect", files=files)
    results = DetectManyResponse.model_validate(answer.json()).results
    assert answer.status_code == 200
    assert_finds_tiles(answer.json()["results"][0])
    assert isinstance(results[1], ProblemDocument) and results[1].status == 415
    assert isinstance(results[2], DetectResponse) and results[2].detections == []
    assert isinstance(results[3], ProblemDocument) and results[3].type == "/docs#corrupt-image"
    assert_finds_tiles(answer.json()["results"][4])
    texts = [base64.b64encode(TILES).decode(), "not base64!", 7]
    results = DetectManyResponse.model_validate(client.post("/detect", json={"images": texts}).json()).results
    assert isinstance(results[0], DetectResponse)
    assert [result.status for result in results[1:] if isinstance(result, ProblemDocument)] == [400, 400]
    one = client.post("/detect", json={"images": texts[:1]}).json()
    assert_finds_tiles(one["results"][0])


def test_a_batch_gives_what_each_image_gives_alone(client: httpx.Client) -> None:
    rng = np.random.default_rng(5)
    sizes = [(96, 160), (96, 160), (300, 500), (90, 160), (500, 120), (96, 160), (33, 160), (97, 161)]
    images = [encode(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]
    query = {"class_threshold": 0.4, "score_threshold": 0}
    together = client.post("/detect", files=[("image", ("x", each)) for each in images], params=query).json()[
        "results"
    ]
    alone = [client.post("/detect", content=each, params=query).json() for each in images]
    for left, right in zip(together, alone, strict=True):
        assert left["detections"] and left["image"] == right["image"]
        assert len(left["detections"]) == len(right["detections"])
        for one, other in zip(left["detections"], right["detections"], strict=True):
            assert one["box"] == pytest.approx(other["box"], abs=1e-3)
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)


def test_51_mb_are_refused_by_their_declared_length_before_a_byte_is_sent(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as raw:
        raw.sendall(
            b"POST /detect HTTP/1.1\r\nHost: x\r\nContent-Length: 51000000\r\nExpect: 100-continue\r\n\r\n"
        )
        assert raw.recv(4096).startswith(b"HTTP/1.1 413")


def test_51_mb_are_refused_and_not_held(server: ServerProcess, client: httpx.Client) -> None:
    before = server.peak_kilobytes()
    problem = assert_problem(client.post("/detect", content=bytes(51_000_000)), 413, "body-too-large")
    assert "50000000" in problem["detail"]
    assert server.peak_kilobytes() - before < 32 * 1024


def test_chunked_bodies_are_cut_at_the_limit(server: ServerProcess, client: httpx.Client) -> None:
    before = server.peak_kilobytes()
    piece = bytes(1_000_000)
    answer = client.post("/detect", content=(piece for _ in range(200)))
    assert_problem(answer, 413, "body-too-large")
    assert (
        server.peak_kilobytes() - before < 120 * 1024
    )  # what it may hold is the limit, 50 MB, twice at the join


@pytest.mark.parametrize(
    ("content_type", "body", "status", "slug"),
    [
        ("application/json", b"{", 400, "bad-body"),
        ("application/json", b"[" * 100_000, 400, "bad-body"),
        ("application/json", b"[]", 400, "bad-body"),
        ("application/json", b'{"image": NaN}', 400, "bad-body"),
        ("application/json", b'{"image": 3}', 400, "bad-body"),
        ("application/json", b'{"image": "a", "url": "http://x"}', 400, "bad-body"),
        ("application/json", b'{"images": []}', 400, "bad-body"),
        ("application/json", json.dumps({"images": ["a"] * 65}).encode(), 413, "too-many-images"),
        ("application/json", b'{"images": [' + b"1," * 200_000 + b"1]}", 400, "bad-body"),
        ("multipart/form-data", b"x", 400, "bad-body"),
        ("multipart/form-data; boundary=b", b"x", 400, "bad-body"),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="image"\r\n\r\nxx',
            400,
            "bad-body",
        ),
        (
            "multipart/form-data; boundary=b",
            b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\n\r\n--b--',
            400,
            "bad-body",
        ),
        ("text/html", b"<p>", 415, "unsupported-body"),
    ],
)
def test_malformed_bodies(
    client: httpx.Client, content_type: str, body: bytes, status: int, slug: str
) -> None:
    assert_problem(client.post("/detect", content=body, headers={"content-type": content_type}), status, slug)


def test_what_clients_get_wrong_is_told_by_its_name(client: httpx.Client) -> None:
    """Each was tried by somebody who had only curl's manual."""

    def detail(slug: str, status: int = 400, **request: Any) -> str:
        return str(assert_problem(client.post("/detect", **request), status, slug)["detail"])

    assert "no address" in detail("bad-body", json={"image": "http://example.org/a.jpg"})
    # curl -d takes out line breaks and zero bytes.
    bare = TILES.translate(None, b"\r\n\0")
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert "--data-binary" in detail("bad-body", content=bare * 20, headers=form)
    assert "like an image" in detail("unsupported-image", 415, content=b"image=" + b"x" * 1000, headers=form)
    field = {"data": {"score_threshold": "0.5"}, "files": {"image": ("a.png", TILES)}}
    assert "query string" in detail("bad-body", **field)
    assert "query string" not in detail("bad-body", files={"file": ("a.png", TILES)})
    unknown = detail("invalid-request", 422, content=TILES, params={"conf": "0.5"})
    assert "score_threshold" in unknown


def test_too_many_images_and_compressed_bodies(client: httpx.Client) -> None:
    answer = client.post("/detect", files=[("image", ("x", TILES))] * 65)
    assert "64" in assert_problem(answer, 413, "too-many-images")["detail"]
    answer = client.post("/detect", content=TILES, headers={"content-encoding": "gzip"})
    assert_problem(answer, 415, "unsupported-body")


def test_nothing_of_a_request_is_written_to_disk(
    server: ServerProcess, client: httpx.Client, tmp_path: Path
) -> None:
    noise = encode(np.random.default_rng(0).integers(0, 256, (900, 900, 3), dtype=np.uint8))
    assert len(noise) > 2_000_000  # large enough that a spooling parser would use a file
    written = Path(f"/proc/{server.process.pid}/io").read_text()
    before = int(next(line for line in written.splitlines() if line.startswith("write_bytes")).split()[1])
    client.post("/detect", files={"image": ("noise.png", noise)})
    written = Path(f"/proc/{server.process.pid}/io").read_text()
    after = int(next(line for line in written.splitlines() if line.startswith("write_bytes")).split()[1])
    assert after - before < 1_000_000
