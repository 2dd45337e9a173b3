"""Multipart and JSON bodies that are wrong in form, or built to be slow to read."""

from __future__ import annotations

import base64

import httpx
import pytest

from tests.hostile.wire import answers_to, request
from tests.server_process import TILES, ServerProcess, assert_problem

pytestmark = pytest.mark.usefixtures("unharmed")

SLOW = 10.0  # seconds that no answer may take, on a loaded machine


def part(name: str, content: bytes, *headers: str) -> bytes:
    head = "\r\n".join([f'--b\r\nContent-Disposition: form-data; name="{name}"', *headers, "", ""])
    return head.encode() + content + b"\r\n"


def post_multipart(client: httpx.Client, body: bytes, path: str = "/detect") -> httpx.Response:
    return client.post(path, content=body, headers={"content-type": "multipart/form-data; boundary=b"})


# Multipart


def test_ten_thousand_parts_are_refused_at_the_first_too_many(client: httpx.Client) -> None:
    answer = post_multipart(client, part("image", TILES) * 10_000 + b"--b--\r\n")
    assert_problem(answer, 413, "too-many-images")
    assert answer.elapsed.total_seconds() < SLOW


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(("X: " + "a" * 5_000_000,), id="5 MB value"),
        pytest.param(("X" * 5_000_000 + ": a",), id="5 MB name"),
        pytest.param(tuple(f"X-{index}: a" for index in range(100_000)), id="100000 headers"),
        pytest.param(("Content-Disposition: form-data; " + 'a="b"; ' * 100_000,), id="100000 parameters"),
        pytest.param(("Content-Disposition: form-data; name=" + '"\\' * 500_000,), id="escapes"),
    ],
)
def test_giant_part_headers_are_refused_soon(client: httpx.Client, headers: tuple[str, ...]) -> None:
    answer = post_multipart(client, part("image", TILES, *headers) + b"--b--\r\n")
    assert_problem(answer, 400, "bad-body")
    assert answer.elapsed.total_seconds() < SLOW


@pytest.mark.parametrize(
    "filling",
    [
        pytest.param(b"\r\n--b", id="boundaries"),
        pytest.param(b"\r\n--", id="beginnings of boundaries"),
        pytest.param(b"\r\n--b ", id="boundaries with blanks"),
        pytest.param(b"\r\n", id="empty lines"),
        pytest.param(b"--b\r\n", id="empty parts"),
    ],
)
def test_contents_that_look_like_boundaries_are_read_in_linear_time(
    client: httpx.Client, filling: bytes
) -> None:
    for body in (part("image", filling * (3_000_000 // len(filling))) + b"--b--\r\n", filling * 500_000):
        answer = post_multipart(client, body)
        assert 400 <= answer.status_code < 500
        assert answer.elapsed.total_seconds() < SLOW


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=" + "b" * 20_000,
        'multipart/form-data; boundary="',
        "multipart/form-data; boundary*=utf-8''b; boundary*0=c",
        "multipart/form-data" + "; a=b" * 3000,
        "multipart/form-data; boundary=\xff",
        "multipart/mixed; boundary=b",
        "application/json; charset=" + "x" * 10_000,
    ],
)
def test_odd_content_types(server: ServerProcess, content_type: str) -> None:
    body = part("image", TILES) + b"--b--\r\n"
    [answer] = answers_to(
        server.port, request("POST", "/detect", (f"Content-Type: {content_type}", "Connection: close"), body)
    )
    assert answer.status in {400, 415}
    answer.problem()


# JSON


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 5_000_000, id="5 million lists deep"),
        pytest.param(b'{"image":' * 500_000, id="half a million objects deep"),
        pytest.param(b'{"image": ' + b"9" * 5_000_000 + b"}", id="a number of 5 million digits"),
        pytest.param(b'{"image": 1e999999999}', id="a number past all numbers"),
        pytest.param(b'{"image": "\\ud800"}', id="half a surrogate pair"),
        pytest.param(b'{"\\ud800": 1}', id="half a surrogate pair as a key"),
        pytest.param(b'{"image": "' + b"\\u0041" * 1_000_000 + b'!"}', id="a million escapes"),
        pytest.param(b'{"image": "a", "image": "b!"}', id="one key twice"),
        pytest.param(b"\xff\xfe{\0}\0", id="UTF-16"),
        pytest.param(b'\xef\xbb\xbf{"image": 1}', id="a byte order mark"),
        pytest.param(b'{"image": ' + b"[" * 400 + b"]" * 400 + b"}", id="lists in an image"),
        pytest.param(b'{"__proto__": {"image": "x"}}', id="prototype"),
        pytest.param(b"{" + b",".join(b'"k%d":1' % index for index in range(90_000)) + b"}", id="many keys"),
    ],
)
def test_json_bombs_are_400_soon(client: httpx.Client, body: bytes) -> None:
    for path in ("/detect", "/detect?annotate=true", "/rescore"):
        answer = client.post(path, content=body, headers={"content-type": "application/json"})
        assert answer.status_code in {400, 422}, answer.text[:300]
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.elapsed.total_seconds() < SLOW


@pytest.mark.parametrize(
    "boxes", ["[[1e999,0,9,9]]", "[[" + "9" * 400 + ",0,1,1]]", '[["1",0,9,9]]', "[[[0]]]", "[{}]"]
)
def test_boxes_of_no_numbers_are_refused(client: httpx.Client, boxes: str) -> None:
    text = base64.b64encode(TILES).decode()
    answer = client.post(
        "/rescore",
        content=f'{{"image": "{text}", "boxes": {boxes}}}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 422, answer.text
    answer = client.post("/rescore", files={"image": TILES}, data={"boxes": boxes})
    assert answer.status_code == 422, answer.text


def test_a_list_of_one_bad_image_to_annotate_is_that_images_problem(client: httpx.Client) -> None:
    assert_problem(client.post("/detect?annotate=true", json={"images": [{}]}), 400, "bad-body")
