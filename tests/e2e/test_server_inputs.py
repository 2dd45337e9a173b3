"""What clients may send to a running server, good and bad. Every bad request is followed by a good one."""

from __future__ import annotations

import base64
import io
import json
import socket
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from service.schemas import (
    DetectManyResponse,
    DetectResponse,
    ModelsResponse,
    ProblemDocument,
    RescoreResponse,
)
from tests.factories import encode, tiles_image
from tests.server_process import GREEN_BOX, RED_BOX, ServerProcess, assert_finds_tiles, assert_problem

TILES = encode(tiles_image())


@pytest.fixture(autouse=True)
def healthy_afterwards(client: httpx.Client) -> Iterator[None]:
    yield
    assert_finds_tiles(client.post("/detect", content=TILES, headers={"content-type": "image/png"}).json())


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


def test_options_reach_the_model(client: httpx.Client) -> None:
    def ask(**query: object) -> list[dict[str, Any]]:
        answer = client.post(
            "/detect", content=TILES, params={key: str(value) for key, value in query.items()}
        )
        assert answer.status_code == 200, answer.text
        detections: list[dict[str, Any]] = answer.json()["detections"]
        return detections

    assert [each["label"] for each in ask(classes="green")] == ["green"]
    assert [each["label"] for each in ask(classes="green,red")] == ["red", "green"]
    assert len(ask(max_detections=1)) == 1
    assert [each["score"] for each in ask(iou_weight=0)] == pytest.approx([1, 240 / 255], abs=1e-4)
    assert [each["label"] for each in ask(class_threshold=0.99)] == ["red"]
    assert ask(score_threshold=1) == []
    plain = ask(model="plain")
    assert plain[0]["iou"] is None and plain[0]["purity"] is None and plain[0]["integrity"] is None


@pytest.mark.parametrize(
    ("query", "status", "slug", "words"),
    [
        ({"model": "tny"}, 404, "model-not-found", "'tiny'"),
        ({"score_threshold": "1.5"}, 422, "bad-option", "score_threshold"),
        ({"score_threshold": "nan"}, 422, "bad-option", "score_threshold"),
        ({"class_threshold": "-inf"}, 422, "bad-option", "class_threshold"),
        ({"iou_weight": "-0.1"}, 422, "bad-option", "iou_weight"),
        ({"nms_threshold": "0"}, 422, "bad-option", "nms_threshold"),
        ({"nms_threshold": "half"}, 422, "invalid-request", "nms_threshold"),
        ({"max_detections": "0"}, 422, "bad-option", "max_detections"),
        ({"max_detections": "21"}, 422, "bad-option", "20"),
        ({"classes": "reed"}, 422, "bad-option", "'red'"),
        ({"classes": ","}, 422, "bad-option", "classes"),
        ({"format": "xml"}, 422, "invalid-request", "format"),
        ({"score_treshold": "0.5"}, 422, "invalid-request", "'score_threshold'"),
        ({"annotate": "true", "format": "yolo"}, 422, "bad-option", "annotate"),
    ],
)
def test_bad_options_are_named(
    client: httpx.Client, query: dict[str, str], status: int, slug: str, words: str
) -> None:
    problem = assert_problem(client.post("/detect", content=TILES, params=query), status, slug)
    assert words in problem["detail"]


def _png_header_of(width: int, height: int) -> bytes:
    """A complete 1-bit PNG of this size: small as a file, huge in memory."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(1 + (width + 7) // 8)
    pixels = zlib.compress(row * height, 1)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _animated() -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "GIF", save_all=True, append_images=frames[1:])
    return stream.getvalue()


@pytest.mark.parametrize(
    ("body", "status", "slug"),
    [
        pytest.param(TILES[: len(TILES) // 2], 422, "corrupt-image", id="truncated PNG"),
        pytest.param(encode(tiles_image(), "JPEG")[:400], 422, "corrupt-image", id="truncated JPEG"),
        pytest.param(TILES[:60] + b"\xff" * 40 + TILES[100:], 422, "corrupt-image", id="corrupt PNG"),
        pytest.param(b"", 422, "corrupt-image", id="0 bytes"),
        pytest.param(b"just text, named photo.jpg", 415, "unsupported-image", id="text"),
        pytest.param(_animated(), 415, "unsupported-image", id="animated"),
    ],
)
def test_bad_images_are_refused(client: httpx.Client, body: bytes, status: int, slug: str) -> None:
    assert_problem(client.post("/detect", content=body, headers={"content-type": "image/jpeg"}), status, slug)
    assert_problem(client.post("/detect", files={"image": ("photo.jpg", body)}), status, slug)


@pytest.mark.parametrize("size", [(1, 1), (4000, 1), (1, 4000)])
def test_extreme_shapes_are_answered(client: httpx.Client, size: tuple[int, int]) -> None:
    height, width = size
    answer = client.post("/detect", content=encode(np.full((height, width, 3), 255, np.uint8)))
    found = DetectResponse.model_validate(answer.json())
    assert (found.image.width, found.image.height) == (width, height)
    for detection in found.detections:
        x1, y1, x2, y2 = detection.box
        assert 0 <= x1 <= x2 <= width and 0 <= y1 <= y2 <= height


def test_exif_orientation_is_honoured(client: httpx.Client) -> None:
    turned = Image.fromarray(tiles_image()).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn me 90 degrees clockwise"
    stream = io.BytesIO()
    turned.save(stream, "PNG", exif=exif)
    assert_finds_tiles(client.post("/detect", content=stream.getvalue()).json())


def test_a_pixel_bomb_is_refused_from_its_header(server: ServerProcess, client: httpx.Client) -> None:
    before = server.peak_kilobytes()
    bomb = _png_header_of(20000, 20000)
    problem = assert_problem(client.post("/detect", content=bomb), 413, "image-too-large")
    assert "20000 x 20000" in problem["detail"]
    assert server.peak_kilobytes() - before < 32 * 1024


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
        ("application/json", json.dumps({"images": ["a"] * 17}).encode(), 413, "too-many-images"),
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


def test_too_many_images_and_compressed_bodies(client: httpx.Client) -> None:
    answer = client.post("/detect", files=[("image", ("x", TILES))] * 17)
    assert "16" in assert_problem(answer, 413, "too-many-images")["detail"]
    answer = client.post("/detect", content=TILES, headers={"content-encoding": "gzip"})
    assert_problem(answer, 415, "unsupported-body")


def test_rescore_judges_given_boxes_in_order(client: httpx.Client) -> None:
    boxes = [GREEN_BOX, RED_BOX, [0, 32, 32, 64]]
    by_form = client.post("/rescore", files={"image": ("a", TILES)}, data={"boxes": json.dumps(boxes)})
    by_json = client.post("/rescore", json={"image": base64.b64encode(TILES).decode(), "boxes": boxes})
    for answer in (by_form, by_json):
        opinions = RescoreResponse.model_validate(answer.json()).results
        assert [each.label for each in opinions] == ["green", "red", "red"]
        assert [each.purity for each in opinions] == pytest.approx([240 / 255, 1, 0], abs=1e-4)
        assert opinions[1].iou == pytest.approx(0.8, abs=1e-4)
    none = client.post("/rescore", files={"image": ("a", TILES)}, data={"boxes": "[]"})
    assert none.status_code == 200 and none.json()["results"] == []


@pytest.mark.parametrize(
    ("boxes", "status", "slug", "words"),
    [
        pytest.param(json.dumps([[0, 0, 9, 9]] * 10_000), 422, "bad-boxes", "at most 100", id="10000 boxes"),
        pytest.param(
            json.dumps([[0, 0, 9, 9]] * 100_000), 422, "bad-boxes", "at most 100", id="100000 boxes"
        ),
        ("[[500, 500, 600, 600]]", 422, "bad-boxes", "outside"),
        ("[[30, 30, 10, 10]]", 422, "bad-boxes", "inverted"),
        ("[[0, 0, 1]]", 422, "bad-boxes", "[n, 4]"),
        ("[[0, 0, 1, 1e999]]", 422, "bad-boxes", "finite"),
        ("[[0, 0, 1, NaN]]", 400, "bad-body", "NaN"),
        ('[["a", 0, 1, 1]]', 422, "bad-boxes", "numbers"),
        ('[["0", "0", "9", "9"]]', 422, "bad-boxes", "numbers"),
        ("[[false, false, true, true]]", 422, "bad-boxes", "numbers"),
        ("[[null, 0, 9, 9]]", 422, "bad-boxes", "numbers"),
        ("7", 400, "bad-body", "list"),
        ("[", 400, "bad-body", "JSON"),
    ],
)
def test_bad_boxes_are_named(client: httpx.Client, boxes: str, status: int, slug: str, words: str) -> None:
    answer = client.post("/rescore", files={"image": ("a", TILES)}, data={"boxes": boxes})
    detail = assert_problem(answer, status, slug)["detail"]
    if slug != "bad-boxes" or words != "outside":
        assert words in detail
    else:
        assert "image" in detail


def test_rescore_needs_a_localization_head_and_both_fields(client: httpx.Client) -> None:
    form: dict[str, Any] = {"files": {"image": ("a", TILES)}, "data": {"boxes": "[]"}}
    assert_problem(client.post("/rescore", params={"model": "plain"}, **form), 422, "bad-option")
    assert_problem(client.post("/rescore", files={"image": ("a", TILES)}), 400, "bad-body")
    assert_problem(client.post("/rescore", content=TILES), 415, "unsupported-body")


def test_other_formats(client: httpx.Client) -> None:
    coco = client.post("/detect", content=TILES, params={"format": "coco"}).json()
    assert coco["annotations"][0]["bbox"] == [32, 0, 32, 32]
    assert {each["id"]: each["name"] for each in coco["categories"]}[
        coco["annotations"][0]["category_id"]
    ] == "red"
    yolo = client.post("/detect", content=TILES, params={"format": "yolo"})
    assert yolo.headers["content-type"].startswith("text/plain")
    assert [float(value) for value in yolo.text.splitlines()[0].split()[:5]] == pytest.approx(
        [0, 0.3, 1 / 6, 0.2, 1 / 3], abs=1e-5
    )
    studio = client.post("/detect", content=TILES, params={"format": "labelstudio"}).json()
    assert studio["result"][0]["value"]["rectanglelabels"] == ["red"]
    assert studio["result"][0]["value"]["x"] == pytest.approx(20)


def test_annotate_answers_the_picture_with_boxes(client: httpx.Client) -> None:
    answer = client.post(
        "/detect", content=TILES, params={"annotate": "true"}, headers={"accept": "image/png"}
    )
    assert answer.headers["content-type"] == "image/png"
    drawn = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert drawn.shape == (96, 160, 3)
    assert tuple(drawn[80, 127]) == (
        0x2C,
        0xA0,
        0x2C,
    )  # the right edge of the green box, in its class's colour
    assert (
        client.post("/detect", content=TILES, params={"annotate": "1"}).headers["content-type"]
        == "image/jpeg"
    )
    assert_problem(
        client.post("/detect", files=[("image", ("x", TILES))] * 2, params={"annotate": "1"}),
        422,
        "bad-option",
    )


def test_annotate_draws_the_upright_image_and_says_what_a_jpeg_cannot_hold(client: httpx.Client) -> None:
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(tiles_image()).transpose(Image.Transpose.ROTATE_90).save(turned, "PNG", exif=exif)
    answer = client.post("/detect", content=turned.getvalue(), params={"annotate": "1"})
    assert Image.open(io.BytesIO(answer.content)).size == (160, 96)
    ribbon = encode(np.full((2, 66_000, 3), 255, np.uint8))
    refused = client.post("/detect", content=ribbon, params={"annotate": "1"})
    assert "Accept: image/png" in assert_problem(refused, 422, "bad-option")["detail"]
    drawn = client.post("/detect", content=ribbon, params={"annotate": "1"}, headers={"accept": "image/png"})
    assert Image.open(io.BytesIO(drawn.content)).size == (66_000, 2)


def test_models_and_samples(client: httpx.Client) -> None:
    answer = ModelsResponse.model_validate(client.get("/models").json())
    assert answer.default == "tiny" and [model.name for model in answer.models] == ["tiny", "plain"]
    tiny = answer.models[0]
    assert (
        tiny.samples == ["tiles.jpg"] and tiny.classes[0].colour == "#d62728" and tiny.metrics["AP50"] == 0.9
    )
    sample = client.get("/models/tiny/samples/tiles.jpg")
    assert sample.headers["content-type"] == "image/jpeg" and sample.content.startswith(b"\xff\xd8")
    for path in ("/models/tiny/samples/manifest.json", "/models/tiny/samples/..%2f..%2fmanifest.json"):
        assert_problem(client.get(path), 404, "not-found")
    assert_problem(client.get("/models/none/samples/tiles.jpg"), 404, "model-not-found")


def test_the_log_holds_no_traceback_of_all_this(server: ServerProcess) -> None:
    assert [record for record in server.log() if record["level"] == "error"] == []


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
