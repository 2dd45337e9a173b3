"""KServe V2 over REST: bodies as no client library writes them, and what becomes of those who wait."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.factories import make_tiny_artifact
from tests.server_process import RED_BOX, TILES, ServerProcess, serving, wait_until

LENGTH = "Inference-Header-Content-Length"
TEXT = base64.b64encode(TILES).decode()
INFER = "/v2/models/tiny/infer"


def image_request(**changed: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "data": [TEXT]}
    return {"inputs": [tensor], **changed}


def binary_request(size: int = len(TILES) + 4, **changed: Any) -> bytes:
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [{**tensor, **changed}]}).encode()


RAW = len(TILES).to_bytes(4, "little") + TILES


def error_of(answer: httpx.Response, status: int) -> str:
    """The text of an error in this protocol's form."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/json" and answer.headers["x-request-id"]
    document = answer.json()
    assert set(document) == {"error"} and "\n" not in document["error"]
    return str(document["error"])


@pytest.mark.usefixtures("healthy_afterwards")
def test_base64_in_json_and_raw_bytes_in_any_content_type(client: httpx.Client) -> None:
    for text in (TEXT, f"data:image/png;base64,{TEXT}"):
        request = image_request(id="a")
        request["inputs"][0]["data"] = [text]
        answer = client.post(INFER, json=request).json()
        assert answer["id"] == "a" and answer["model_version"] == "1"
        boxes = next(each for each in answer["outputs"] if each["name"] == "boxes")
        assert boxes["shape"] == [1, 2, 4] and boxes["data"][:4] == RED_BOX
    head = binary_request()
    for kind in ("application/octet-stream", "application/json", "text/plain"):
        headers = {LENGTH: str(len(head)), "content-type": kind}
        answer_of_raw = client.post(INFER, content=head + RAW, headers=headers)
        assert answer_of_raw.status_code == 200 and LENGTH not in answer_of_raw.headers
    nested = {
        "name": "images",
        "shape": [1, 32, 32, 3],
        "datatype": "UINT8",
        "data": [[[[9, 9, 9]] * 32] * 32],
    }
    sizes = {"name": "image_sizes", "shape": [1, 2], "datatype": "INT64", "data": [[32, 32]]}
    answer = client.post("/v2/models/tiny.tensor/infer", json={"inputs": [nested, sizes]})
    assert answer.status_code == 200, answer.text


@pytest.mark.usefixtures("healthy_afterwards")
@pytest.mark.parametrize("length", ["", "x", "-1", "1.5", "1e3", "99999999", "9" * 4000, "٣", "0", "3"])
def test_garbage_header_lengths(client: httpx.Client, length: str) -> None:
    answer = client.post(INFER, content=binary_request() + RAW, headers=[(LENGTH.encode(), length.encode())])
    error_of(answer, 400)


@pytest.mark.usefixtures("healthy_afterwards")
@pytest.mark.parametrize(
    ("head", "raw", "words"),
    [
        (binary_request(10**18), RAW, "are left"),
        (binary_request(5), RAW[:5], "an element of"),
        (binary_request(3), RAW[:3], "elements in 3 bytes"),
        (binary_request(), RAW + b"more", "belong to no input"),
        (binary_request(len(RAW) + 4), RAW + b"more", "4 bytes more"),
        (binary_request(shape=[2]), RAW, "1 elements"),
        (binary_request(shape=[2**62]), RAW, "images; at most"),
        (binary_request(shape=[-1]), RAW, "whole number"),
        (binary_request(shape=[True]), RAW, "whole number"),
        (binary_request(shape=[]), RAW, "expected shape"),
        (binary_request(shape=7), RAW, "must be a list"),
        (binary_request(data=[TEXT]), RAW, "no `data`"),
        (binary_request(name=7), RAW, "must be a string"),
        (binary_request(datatype="FP32"), RAW, "expected datatype BYTES"),
        (binary_request(colour=1), RAW, "unknown key 'colour'"),
        (binary_request(parameters=7), RAW, "JSON object"),
        (binary_request(parameters={"binary_data_size": "9"}), RAW, "whole number"),
    ],
)
def test_raw_data_that_do_not_fit(client: httpx.Client, head: bytes, raw: bytes, words: str) -> None:
    answer = client.post(INFER, content=head + raw, headers={LENGTH: str(len(head))})
    assert words in error_of(answer, 413 if words == "images; at most" else 400)


@pytest.mark.usefixtures("healthy_afterwards")
@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "JSON"),
        (b"{", 400, "JSON"),
        (b"[]", 400, "JSON object"),
        (b"[" * 200_000, 400, "nested"),
        (b'{"inputs": NaN}', 400, "NaN"),
        (b"{}", 400, "list of tensors"),
        (b'{"inputs": [7]}', 400, "JSON object"),
        (b'{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}', 400, "needs `data`"),
        (b'{"inputs": [' + b"1," * 5_000_000 + b"1]}", 400, "raw bytes"),
        (json.dumps(image_request(colour=1)).encode(), 400, "unknown key"),
        (json.dumps(image_request(id=7)).encode(), 400, "id must be"),
        (json.dumps(image_request(id="\ud800")).encode(), 400, "surrogate"),
        (b'{"inputs": [{"name": "\\ud800\\n", "data": [1]}]}', 400, "surrogate"),
        (b'{"inputs": [{"name": "a\\nb", "datatype": "\\n", "shape": [1], "data": [1]}]}', 400, "'a"),
        (b'{"inputs": [], "\\ud800": 1}', 400, "unknown key"),
        (json.dumps(image_request(parameters={"\ud800\n": 1})).encode(), 422, "unknown option"),
        (json.dumps(image_request(parameters={"classes": "\ud800"})).encode(), 422, "classes"),
        (json.dumps(image_request(parameters=[])).encode(), 400, "JSON object"),
        (json.dumps(image_request(parameters={"binary_data_output": 1})).encode(), 400, "true or false"),
        (json.dumps(image_request(parameters={"timeout": "1s"})).encode(), 422, "microseconds"),
        (json.dumps(image_request(parameters={"score_threshold": {}})).encode(), 422, "score_threshold"),
        (json.dumps(image_request(outputs=[{"name": "boxes"}] * 2)).encode(), 400, "twice"),
        (json.dumps(image_request(outputs=[{"name": "x" * 9999}])).encode(), 400, "unknown output"),
    ],
)
def test_malformed_json(client: httpx.Client, body: bytes, status: int, words: str) -> None:
    assert words in error_of(client.post(INFER, content=body), status)


@pytest.mark.usefixtures("healthy_afterwards")
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([256] * 3, "does not fit"),
        ([-1] * 3, "does not fit"),
        ([10**30] * 3, "does not fit"),
        ([1.0] * 3, "got ['float']"),
        ([True] * 3, "got ['bool']"),
        (["1"] * 3, "got ['str']"),
        ([None] * 3, "got ['NoneType']"),
        ([[1], 2, 3], "got ['list']"),
        ([1] * 4, "4 values"),
        ([], "0 values"),
    ],
)
def test_listed_values_that_are_no_pixels(client: httpx.Client, values: list[Any], words: str) -> None:
    tensor = {"name": "images", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": values}
    answer = client.post("/v2/models/tiny.tensor/infer", json={"inputs": [tensor]})
    assert words in error_of(answer, 400)


@pytest.mark.usefixtures("healthy_afterwards")
def test_compressed_bodies_are_bounded_while_they_come_out(
    server: ServerProcess, client: httpx.Client
) -> None:
    body = json.dumps(image_request()).encode()
    forms = {"gzip": gzip.compress, "deflate": zlib.compress}
    for encoding, compress in forms.items():
        headers = {"content-encoding": encoding}
        assert client.post(INFER, content=compress(body), headers=headers).status_code == 200
        error_of(client.post(INFER, content=body, headers=headers), 400)
        error_of(client.post(INFER, content=compress(body)[:-6], headers=headers), 400)
        error_of(client.post(INFER, content=compress(body) + b"more", headers=headers), 400)
    before = server.peak_kilobytes()
    bomb = gzip.compress(bytes(500_000_000), 1)
    for _ in range(3):
        answer = client.post(INFER, content=bomb, headers={"content-encoding": "gzip"})
        assert "50000000" in error_of(answer, 413)
    assert (
        server.peak_kilobytes() - before < 200 * 1024
    )  # what it may hold is 50 MB, and zlib's doubling of it
    error_of(client.post(INFER, content=b"x", headers={"content-encoding": "br"}), 415)


@pytest.mark.usefixtures("healthy_afterwards")
def test_errors_of_paths_and_of_the_index(client: httpx.Client) -> None:
    assert client.get("/v2").json() == client.get("/v2/").json()
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    for path in ("/v2/models/none", "/v2/models/none/ready", "/v2/models/tiny/versions/9/config"):
        error_of(client.get(path), 404)
    for path in ("/v2/nothing", INFER, "/v2/models/stats", "/v2/models/..%2ftiny/config"):
        error_of(client.get(path), 404)
    assert len(client.post("/v2/repository/index", json={"ready": True}).json()) == 6
    error_of(client.post("/v2/repository/index", json={"ready": 1}), 400)
    error_of(client.post("/v2/repository/index", content=b"{"), 400)


@pytest.fixture(scope="module")
def waiting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A model that takes half a second an image, one at a time; three images of one client may wait."""
    folder = tmp_path_factory.mktemp("waiting")
    make_tiny_artifact(folder / "tiny")
    options = {"max_queue": 4, "max_images": 2, "max_batch": 1, "max_queue_seconds": 60}
    with serving(folder, "--model", str(folder / "tiny"), "--backend", "sleep:500", **options) as running:
        yield running


def test_timeouts_full_queues_and_clients_that_leave(waiting_server: ServerProcess) -> None:
    """The same admission, deadline and queue as those of /detect."""
    client = waiting_server.client

    def infer(**parameters: object) -> httpx.Response:
        return client.post(INFER, json=image_request(parameters=parameters), timeout=60)

    with ThreadPoolExecutor(4) as clients:
        before = waiting_server.metric("hindsight_batch_size_count")
        first = clients.submit(infer)
        wait_until(
            lambda: waiting_server.metric("hindsight_batch_size_count") == before + 1, "the first to run"
        )
        late = clients.submit(infer, timeout=100_000)
        assert "would wait" in error_of(late.result(), 503)  # hopeless: told at once
        assert first.result().status_code == 200
    with ThreadPoolExecutor(4) as clients:
        before = waiting_server.metric("hindsight_batch_size_count")
        running = clients.submit(infer)
        wait_until(
            lambda: waiting_server.metric("hindsight_batch_size_count") == before + 1, "another to run"
        )
        body = json.dumps(image_request()).encode()
        head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        sockets = [socket.create_connection(("127.0.0.1", waiting_server.port), timeout=60) for _ in range(3)]
        for each in sockets:
            each.sendall(head + body)
        wait_until(lambda: waiting_server.metric("hindsight_queue_depth") == 3, "the queue to be full")
        refused = infer()
        assert "3 images wait" in error_of(refused, 503) and int(refused.headers["retry-after"]) >= 1
        for each in sockets:
            each.close()
        wait_until(lambda: waiting_server.metric("hindsight_queue_depth") == 0, "the queue to forget them")
        assert running.result().status_code == 200
    assert Path(waiting_server.log_path).read_text().count('"level": "error"') == 0
