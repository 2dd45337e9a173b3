"""Both clients against canned answers: what they send, and which error each answer becomes."""

from __future__ import annotations

import ssl
import subprocess
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

import hindsight
from hindsight.client.http import Address
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
from tests.stub_server import BUSY, FOUND, JUDGED, ROW, TINY, StubServer, says, stub_server

NOTHING = {**FOUND, "detections": []}
UNJUDGED = {**ROW, "iou": None, "purity": None, "integrity": None}

Make = Callable[..., Any]


@pytest.fixture
def make(make: Make, server: StubServer) -> Make:
    """make(**arguments) -> a client of the stub server that tries once."""
    return lambda **arguments: make(f"{server.url}/", **{"timeout": 20, "retries": 0, **arguments})


@pytest.fixture
def client(make: Make) -> Any:
    return make()


def test_detections_come_back_as_the_librarys_own(server: StubServer, client: Any) -> None:
    found = client.detect(
        encode(tiles_image()), score_threshold=0.25, classes=["red", "green"], iou_weight=None
    )
    assert found.to_records() == [{**JUDGED, "box": [1.0, 2.0, 3.0, 4.0]}]
    assert found.class_names == ("red", "green") and found.image_hw == (96, 160)
    assert parse_qs(urlsplit(server.asked[-1].target).query) == {
        "score_threshold": ["0.25"],
        "classes": ["red", "green"],
    }
    assert server.asked[-1].body == encode(tiles_image())


def test_a_model_without_localization_head_gives_none(server: StubServer, client: Any) -> None:
    server.always = says({**FOUND, "detections": [UNJUDGED]})
    found = client.detect(tiles_image())
    assert (found.ious, found.purities, found.integrities) == (None, None, None)


def test_each_version_has_its_own_class_names(server: StubServer, client: Any) -> None:
    for version, name in (("2", "green"), ("1", "dog"), ("2", "green")):
        server.always = says({**FOUND, "version": version, "detections": [{**JUDGED, "label": name}]})
        assert client.detect(b"bytes").names == (name,)
    assert len([seen for seen in server.seen if seen.target == "/models"]) == 1
    server.always = says({**FOUND, "version": "0"})
    with pytest.raises(ServiceError, match="tiny 0 was unloaded"):
        client.detect(b"bytes")


def test_an_array_travels_without_loss(server: StubServer, client: Any) -> None:
    server.always = says(NOTHING)
    assert len(client.detect(tiles_image())) == 0
    np.testing.assert_array_equal(decode_image(server.asked[-1].body), tiles_image())


def test_a_chosen_model_is_named(server: StubServer, make: Make) -> None:
    client = make(model="a b&c")
    client.detect(tiles_image())
    assert parse_qs(urlsplit(server.asked[-1].target).query) == {"model": ["a b&c"]}
    client.detect(tiles_image(), model="other")
    assert parse_qs(urlsplit(server.asked[-1].target).query) == {"model": ["other"]}


@pytest.mark.parametrize("option", ["format", "annotate"])
def test_what_would_be_no_detections_is_not_asked_for(server: StubServer, client: Any, option: str) -> None:
    with pytest.raises(OptionError, match=option):
        client.detect(tiles_image(), **{option: "coco"})
    assert server.seen == []


def test_a_version_that_was_replaced_has_its_classes_asked_for_again(server: StubServer, client: Any) -> None:
    client.detect(b"bytes")
    server.models = {"models": [{**TINY, "classes": [{"name": "cat"}, {"name": "dog"}]}]}
    server.always = says({**FOUND, "detections": [{**JUDGED, "label": "dog"}]})
    assert client.detect(b"bytes").class_names == ("cat", "dog")


def test_a_replaced_version_is_noticed_by_a_second_opinion_too(server: StubServer, client: Any) -> None:
    client.detect(b"bytes")
    server.models = {"models": [{**TINY, "classes": [{"name": "cat"}, {"name": "dog"}]}]}
    opinion = {"iou": 0.5, "purity": 0.6, "integrity": 0.7, "class_scores": {"cat": 0.2, "dog": 0.1}}
    server.always = says({"model": "tiny", "version": "2", "results": [opinion]})
    assert client.rescore(b"bytes", [[1, 2, 3, 4]]).class_names == ("cat", "dog")


@pytest.mark.parametrize("localization", [True, False, None])
@pytest.mark.parametrize("masks", [True, False, None])
def test_where_nothing_is_found_the_model_says_which_columns_there_are(
    server: StubServer, client: Any, localization: bool | None, masks: bool | None
) -> None:
    """None: a server that does not say; the columns are then there and empty, and there are no masks."""
    server.models = {"models": [{**TINY, "has_localization": localization, "has_masks": masks}]}
    server.always = says(NOTHING)
    found = client.detect(b"bytes")
    assert (found.ious is None) == (found.purities is None) == (localization is False)
    assert found.has_masks == bool(masks)


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {**FOUND, "detections": [{}]},
        {**FOUND, "detections": [{**JUDGED, "label_id": 7}]},
        {**FOUND, "detections": [{**JUDGED, "box": [1, 2]}]},
        {**FOUND, "detections": 5},
        {**FOUND, "image": None},
    ],
)
def test_an_answer_of_another_form_is_a_service_error(server: StubServer, client: Any, answer: Any) -> None:
    server.always = says(answer)
    with pytest.raises(ServiceError):
        client.detect(b"bytes")


def test_rescore_sends_image_and_boxes(server: StubServer, client: Any) -> None:
    opinion = {"iou": 0.5, "purity": 0.6, "integrity": 0.7, "class_scores": {"green": 0.2, "red": 0.1}}
    server.always = says({"model": "tiny", "version": "2", "results": [opinion]})
    answer = client.rescore(encode(tiles_image()), np.array([[1, 2, 3, 4]]))
    np.testing.assert_allclose(answer.class_scores, [[0.1, 0.2]])
    assert answer.to_records()[0]["label"] == "green"
    assert b"[[1.0, 2.0, 3.0, 4.0]]" in server.asked[-1].body
    assert encode(tiles_image()) in server.asked[-1].body
    server.always = says({"model": "tiny", "version": "2", "results": []})
    assert client.rescore(tiles_image(), []).class_scores.shape == (0, 2)


@pytest.mark.parametrize("boxes", [[[1, 2, float("nan"), 4]], [[1, 2], [1]], "boxes"])
def test_boxes_that_cannot_be_sent_are_refused_here(client: Any, boxes: Any) -> None:
    with pytest.raises(BoxesError):
        client.rescore(tiles_image(), boxes)


@pytest.mark.parametrize("error", [ImageTooLarge, ModelNotFound, OptionError, UnsupportedImage, BoxesError])
def test_a_problem_becomes_its_error(
    server: StubServer, client: Any, error: type[hindsight.HindsightError]
) -> None:
    problem = {"title": "No", "status": 422, "detail": "the very reason", "code": error.code}
    server.always = says(problem, status=422)
    with pytest.raises(error, match="the very reason"):
        client.detect(tiles_image())


def test_a_busy_server_says_when_to_come_back(server: StubServer, client: Any) -> None:
    server.always = says(BUSY, 503, Retry_After="3")
    with pytest.raises(ServiceError, match="queue is full") as raised:
        client.detect(tiles_image())
    assert (raised.value.status, raised.value.retry_after) == (503, 3.0)


@pytest.mark.parametrize("body", [b"<html>bad gateway</html>", b"", b"[]", b'"text"'])
@pytest.mark.parametrize("status", [200, 502])
def test_an_answer_that_is_not_ours_is_a_service_error(
    server: StubServer, client: Any, status: int, body: bytes
) -> None:
    server.always = says(body, status)
    with pytest.raises(ServiceError, match=f"HTTP status {status}") as raised:
        client.detect(tiles_image())
    assert raised.value.status == status


def test_no_server_is_a_service_error(server: StubServer, make: Make) -> None:
    client = make()
    server.close()
    with pytest.raises(ServiceError, match="is `hindsight serve` running there") as raised:
        client.models()
    assert raised.value.status is None


def test_a_server_that_wants_a_key_is_said_to_want_api_key(server: StubServer, make: Make) -> None:
    """The server's own words are about headers, which nobody sets here."""
    refusal = {"detail": "Authorization: Bearer KEY", "code": "key-required", "status": 401}
    server.listing = server.always = says(refusal, 401)
    for ask in (lambda: make().models(), lambda: make().detect(b"bytes")):
        with pytest.raises(ServiceError, match=r"needs an API key: .*api_key=") as raised:
            ask()
        assert raised.value.status == 401 and "Bearer" not in str(raised.value)
    with pytest.raises(ServiceError, match="Bearer KEY"):
        make(api_key="old").models()


def test_somebody_elses_401_is_not_about_our_keys(server: StubServer, make: Make) -> None:
    server.always = says(b"<html>who are you?</html>", 401)
    with pytest.raises(ServiceError, match="HTTP status 401"):
        make().detect(b"bytes")


@pytest.mark.parametrize("location", ["other", "/detect", ""])
def test_a_redirect_is_not_followed(server: StubServer, make: Make, location: str) -> None:
    """It would take the key and the image to wherever it says."""
    with stub_server() as other:
        target = other.url if location == "other" else location
        server.always = says({}, 307, Location=target)
        with pytest.raises(ServiceError, match="redirects") as raised:
            make(api_key="secret").detect(b"bytes")
        assert raised.value.status == 307 and "secret" not in str(raised.value)
        assert other.connections == 0 and len(server.seen) == 1


def test_proxies_of_the_environment_are_not_used(
    server: StubServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stub_server() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        make(api_key="secret").detect(b"bytes")
        assert proxy.connections == 0
    assert server.asked[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x",
        "http://",
        "http://host:port",
        "",
        "http://me:secret@host",
        "http://host?a=1",
        "http://host/a b",
        "http://[::1",
        "http://a b",
        "http://a\x00b",
        "http://host:0",
        "http://" + "\u00e4" * 64,
    ],
)
@pytest.mark.parametrize("kind", [hindsight.Client, hindsight.AsyncClient])
def test_what_is_no_url_is_refused(kind: type[Any], url: str) -> None:
    with pytest.raises(OptionError, match="url"):
        kind(url)


@pytest.mark.parametrize("url", ["http://a..b:1", f"http://{'a' * 64}.invalid:1"])
def test_a_name_that_leads_nowhere_is_said_at_once(url: str) -> None:
    with hindsight.Client(url, retries=9) as client, pytest.raises(ServiceError, match="no answer from"):
        client.models()


@pytest.mark.parametrize(
    "arguments", [{"timeout": 0}, {"retries": -1}, {"api_key": "a\nb"}, {"api_key": " "}]
)
@pytest.mark.parametrize("kind", [hindsight.Client, hindsight.AsyncClient])
def test_arguments_out_of_range_are_refused(kind: type[Any], arguments: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        kind("http://localhost", **arguments)


@pytest.mark.parametrize("kind", [hindsight.Client, hindsight.AsyncClient])
def test_certificates_for_a_server_without_tls_are_refused(kind: type[Any]) -> None:
    """Who gives them means to be safe, and would send images and the key in the clear."""
    with pytest.raises(
        OptionError, match="tls is for https, and would do nothing for 'http://localhost:8000'"
    ):
        kind("http://localhost:8000", tls=ssl.create_default_context())
    kind("https://localhost:8000", tls=ssl.create_default_context())


def test_a_name_beyond_ascii_is_sent_as_the_net_knows_it() -> None:
    assert Address.of("http://b\u00fccher.example:8000", None).authority == "xn--bcher-kva.example:8000"


def test_a_file_that_is_not_there_is_refused_here(server: StubServer, client: Any) -> None:
    with pytest.raises(UnsupportedImage, match=r"nowhere\.jpg"):
        client.detect("nowhere.jpg")
    assert server.connections == 0


def test_a_stream_without_end_is_not_read_for_ever(
    server: StubServer, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hindsight.client.wire._MOST_BYTES", 100_000)
    with pytest.raises(ImageTooLarge, match="/dev/zero: more than 100000 bytes are not sent"):
        client.detect("/dev/zero")
    assert server.connections == 0


def test_who_does_not_ask_a_server_does_not_wait_for_the_client() -> None:
    code = """
import sys, hindsight
assert not {"asyncio", "ssl", "h11", "supervision", "huggingface_hub"} & set(sys.modules)
assert {"Client", "AsyncClient", "load"} <= set(dir(hindsight))
from hindsight import *
assert Client is hindsight.Client is hindsight.client.Client and AsyncClient is hindsight.AsyncClient
assert not hasattr(hindsight, "client_of_another_kind")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


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
