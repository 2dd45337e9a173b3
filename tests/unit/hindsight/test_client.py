"""The client against canned answers: what it sends, and which error each answer becomes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

import hindsight
from hindsight.decode import decode_image
from hindsight.errors import (
    BoxesError,
    ImageTooLarge,
    ModelNotFound,
    OptionError,
    ServiceError,
    UnsupportedImage,
    errors_by_code,
)
from tests.factories import encode, tiles_image

TINY = {
    "name": "tiny",
    "version": "2",
    "classes": [{"name": "red"}, {"name": "green"}],
    "versions": [{"version": "1", "classes": ["cat", "dog"]}, {"version": "0", "classes": None}],
}
MODELS = {"models": [TINY], "default": "tiny"}
ROW = {"box": [1, 2, 3, 4], "label": "green", "label_id": 1, "score": 0.5, "class_score": 0.6}
JUDGED = {**ROW, "iou": 0.7, "purity": 0.8, "integrity": 0.9}
UNJUDGED = {**ROW, "iou": None, "purity": None, "integrity": None}


class Canned(ThreadingHTTPServer):
    """Answers every request with `answer` (but /models with MODELS) and keeps what came."""

    answer: tuple[int, dict[str, str], bytes] = (200, {}, b"{}")
    target = ""
    received: tuple[dict[str, str], bytes] = ({}, b"")

    def says(self, document: Any, status: int = 200, **headers: str) -> None:
        self.answer = (status, headers, json.dumps(document).encode())


class Handler(BaseHTTPRequestHandler):
    server: Canned

    def do_GET(self) -> None:
        self.reply(200, {}, json.dumps(MODELS).encode())

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.server.target = self.path
        self.server.received = (dict(self.headers), self.rfile.read(length))
        self.reply(*self.server.answer)

    def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[Canned]:
    with Canned(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def client(server: Canned) -> hindsight.Client:
    return hindsight.Client(f"http://127.0.0.1:{server.server_port}/", timeout=10)


def test_detections_come_back_as_the_librarys_own(server: Canned, client: hindsight.Client) -> None:
    server.says(
        {"model": "tiny", "version": "2", "image": {"width": 160, "height": 96}, "detections": [JUDGED]}
    )
    found = client.detect(
        encode(tiles_image()), score_threshold=0.25, classes=["red", "green"], iou_weight=None
    )
    assert found.to_records() == [{**JUDGED, "box": [1.0, 2.0, 3.0, 4.0]}]
    assert found.class_names == ("red", "green") and found.image_hw == (96, 160)
    assert parse_qs(urlsplit(server.target).query) == {
        "score_threshold": ["0.25"],
        "classes": ["red", "green"],
    }
    assert server.received[1] == encode(tiles_image())


def test_a_model_without_localization_head_gives_none(server: Canned, client: hindsight.Client) -> None:
    server.says(
        {"model": "tiny", "version": "2", "image": {"width": 160, "height": 96}, "detections": [UNJUDGED]}
    )
    found = client.detect(tiles_image())
    assert (found.ious, found.purities, found.integrities) == (None, None, None)


def test_each_version_has_its_own_class_names(server: Canned, client: hindsight.Client) -> None:
    answer = {"model": "tiny", "image": {"width": 160, "height": 96}, "detections": [JUDGED]}
    for version, name in (("2", "green"), ("1", "dog"), ("2", "green")):
        server.says({**answer, "version": version})
        found = client.detect(b"bytes")
        assert [found.class_names[label] for label in found.labels] == [name]
    server.says({**answer, "version": "0"})
    with pytest.raises(ServiceError, match="tiny 0 was unloaded"):
        client.detect(b"bytes")


def test_an_array_travels_without_loss(server: Canned, client: hindsight.Client) -> None:
    server.says({"model": "tiny", "version": "2", "image": {"width": 160, "height": 96}, "detections": []})
    assert len(client.detect(tiles_image())) == 0
    np.testing.assert_array_equal(decode_image(server.received[1]), tiles_image())


def test_a_chosen_model_is_named(server: Canned) -> None:
    server.says({"model": "tiny", "version": "2", "image": {"width": 160, "height": 96}, "detections": []})
    hindsight.Client(f"http://127.0.0.1:{server.server_port}", model="a b&c").detect(tiles_image())
    assert parse_qs(urlsplit(server.target).query) == {"model": ["a b&c"]}


def test_rescore_sends_image_and_boxes(server: Canned, client: hindsight.Client) -> None:
    opinion = {"iou": 0.5, "purity": 0.6, "integrity": 0.7, "class_scores": {"green": 0.2, "red": 0.1}}
    server.says({"model": "tiny", "version": "2", "results": [opinion]})
    answer = client.rescore(encode(tiles_image()), np.array([[1, 2, 3, 4]]))
    np.testing.assert_allclose(answer.class_scores, [[0.1, 0.2]])
    assert answer.to_records()[0]["label"] == "green"
    assert b"[[1.0, 2.0, 3.0, 4.0]]" in server.received[1] and encode(tiles_image()) in server.received[1]
    server.says({"model": "tiny", "version": "2", "results": []})
    assert client.rescore(tiles_image(), []).class_scores.shape == (0, 2)


@pytest.mark.parametrize("boxes", [[[1, 2, float("nan"), 4]], [[1, 2], [1]], "boxes"])
def test_boxes_that_cannot_be_sent_are_refused_here(client: hindsight.Client, boxes: Any) -> None:
    with pytest.raises(BoxesError):
        client.rescore(tiles_image(), boxes)


@pytest.mark.parametrize("error", [ImageTooLarge, ModelNotFound, OptionError, UnsupportedImage, BoxesError])
def test_a_problem_becomes_its_error(
    server: Canned, client: hindsight.Client, error: type[hindsight.HindsightError]
) -> None:
    server.says({"title": "No", "status": 422, "detail": "the very reason", "code": error.code}, status=422)
    with pytest.raises(error, match="the very reason"):
        client.detect(tiles_image())


def test_a_busy_server_says_when_to_come_back(server: Canned, client: hindsight.Client) -> None:
    server.says(
        {"title": "Busy", "detail": "the queue is full", "code": "service-error"}, 503, Retry_After="3"
    )
    with pytest.raises(ServiceError, match="queue is full") as raised:
        client.detect(tiles_image())
    assert (raised.value.status, raised.value.retry_after) == (503, 3.0)


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b"[]", b'"text"'])
@pytest.mark.parametrize("status", [200, 502])
def test_an_answer_that_is_not_ours_is_a_service_error(
    server: Canned, client: hindsight.Client, status: int, body: bytes
) -> None:
    server.answer = (status, {}, body)
    with pytest.raises(ServiceError, match=f"HTTP status {status}") as raised:
        client.detect(tiles_image())
    assert raised.value.status == status


def test_no_server_is_a_service_error() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_port
    with pytest.raises(ServiceError, match="is `hindsight serve` running there"):
        hindsight.Client(f"http://127.0.0.1:{port}").models()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://host:port", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(OptionError, match="url"):
        hindsight.Client(url)


def test_every_error_has_a_code_of_its_own() -> None:
    by_code = errors_by_code()
    kinds = [
        value
        for value in vars(hindsight.errors).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert sorted(by_code.values(), key=lambda kind: kind.__name__) == sorted(
        kinds, key=lambda kind: kind.__name__
    )
