"""Texts that want to be taken for something else: by a header, a terminal, a log reader, a path."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote

import httpx
import pytest

from tests.hostile.wire import answers_to, request
from tests.server_process import TILES, ServerProcess

pytestmark = pytest.mark.usefixtures("unharmed")

EVIL = [
    "a\r\nSet-Cookie: stolen=1",
    "a\nHTTP/1.1 200 OK",
    "\x1b]0;owned\x07\x1b[2J",
    '","level":"error","message":"forged',
    '\u2028{"forged":1}',
    "a\0b",
    "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"),
    "%0d%0aSet-Cookie:x",
    "{{7*7}}${7*7}",
    "<script>alert(1)</script>",
    "../../../../etc/passwd",
    "a" * 2000,
]


@pytest.mark.parametrize("evil", EVIL)
def test_texts_reach_answers_and_logs_only_as_data(
    server: ServerProcess, client: httpx.Client, evil: str
) -> None:
    text = base64.b64encode(TILES).decode()
    quoted = quote(evil, encoding="latin-1", errors="replace")
    answers = [
        client.post(f"/detect?model={quoted}", content=TILES),
        client.post(f"/detect?{quoted}=1", content=TILES),
        client.post(f"/detect?classes={quoted}&format={quoted}", content=TILES),
        client.get(f"/{quoted}"),
        client.get(f"/models/{quoted}/samples/{quoted}"),
        client.get(f"/models/tiny/samples/{quoted}"),
        client.post("/detect", files={"image": (evil.encode("latin-1", "replace").decode("latin-1"), TILES)}),
        client.post("/detect", files={evil.encode("latin-1", "replace").decode("latin-1"): TILES}),
        client.post("/detect", json={"image": text, evil: 1}),
        client.post("/detect", json={"image": evil}),
    ]
    for answer in answers:
        assert answer.status_code < 500
        assert "set-cookie" not in answer.headers and answer.headers["content-type"] == (
            "application/json" if answer.status_code == 200 else "application/problem+json"
        )
        assert "\x1b" not in answer.text and "\0" not in answer.text
        json.loads(answer.content)
    assert "forged" not in {record["message"] for record in server.log()}


@pytest.mark.parametrize(
    "header", ["X-Request-Id", "Accept", "Content-Type", "User-Agent", "X-Forwarded-For"]
)
def test_header_values_come_back_only_if_they_are_harmless(server: ServerProcess, header: str) -> None:
    for value in ("a\x1b[31m", 'a" onload="x', "a\xff", "a" * 5000, "a, b", "${jndi:ldap://127.0.0.1:1/a}"):
        [answer] = answers_to(
            server.port,
            request(headers=(f"{header}: {value}", "Connection: close")).replace(b"\x1b", b"\x80"),
        )
        assert answer.status == 200
        assert all("jndi" not in text and "onload" not in text for text in answer.headers.values())
        assert len(answer.headers["x-request-id"]) <= 128
    for value in ("a\x1b[31m", "a\x07"):
        found = answers_to(server.port, request(headers=(f"{header}: {value}", "Connection: close")))
        assert len(found) == 1 and all("\x1b" not in text for text in found[0].headers.values())


def test_every_log_line_is_one_json_object(server: ServerProcess) -> None:
    """After all that this file has sent; ServerProcess.log parses each line."""
    records = server.log()
    assert len(records) > 1 and all({"time", "level", "message"} <= set(record) for record in records)
    assert "\x1b" not in server.log_path.read_text()
