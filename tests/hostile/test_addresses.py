"""No input is an address, so nothing that a client sends makes the server connect anywhere."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.hostile.wire import connected, request
from tests.server_process import TILES, ServerProcess, wait_until

pytestmark = pytest.mark.usefixtures("unharmed")


class Listener:
    """Counts who connects."""

    def __init__(self) -> None:
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            accepted.close()
            self.connections += 1

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    opened = Listener()
    yield opened
    opened.close()


def _strings_of(schema: dict[str, Any], document: dict[str, Any], found: set[str], name: str = "") -> None:
    """The names of all inputs in a schema, `$ref`s followed."""
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    found.add(name)
    for choice in ("anyOf", "oneOf", "allOf"):
        for option in schema.get(choice, []):
            _strings_of(option, document, found, name)
    if "items" in schema:
        _strings_of(schema["items"], document, found, name)
    for field, content in schema.get("properties", {}).items():
        _strings_of(content, document, found, field)
    assert schema.get("format") not in {"uri", "uri-reference", "url", "iri"}, (name, schema)


def test_no_input_is_an_address_and_none_is_fetched(
    server: ServerProcess, client: httpx.Client, listener: Listener
) -> None:
    document = client.get("/openapi.json").json()
    names: set[str] = set()
    urls = [
        f"{scheme}127.0.0.1:{listener.port}/x.jpg"
        for scheme in (
            "http://",
            "https://",
            "ftp://",
            "//",
            "gopher://",
            "s3://",
            "",
            "data:image/png,http://",
        )
    ]
    urls += [f"file:///proc/self/environ?{listener.port}", f"\\\\127.0.0.1@{listener.port}\\x"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parameters = [item["name"] for item in operation.get("parameters", [])]
            for item in operation.get("parameters", []):
                _strings_of(item["schema"], document, names, item["name"])
            for content in operation.get("requestBody", {}).get("content", {}).values():
                _strings_of(content["schema"], document, names)
            for url in urls:
                target = path.replace("{name}", quote(url, safe="")).replace("{file}", quote(url, safe=""))
                answers = [client.request(method, target, params={each: url}) for each in parameters]
                if method == "post":
                    answers += [client.post(target, json=body) for body in _json_with(url)]
                    answers.append(client.post(target, files={"image": url.encode(), "boxes": url.encode()}))
                    answers.append(client.post(target, content=url, headers={"content-type": "image/jpeg"}))
                    answers.append(
                        client.post(target, content=url, headers={"content-type": "text/uri-list"})
                    )
                assert all(answer.status_code < 500 for answer in answers)
    assert names and not {name for name in names if "url" in name.lower() or "uri" in name.lower()}
    for header in ("Referer", "Origin", "X-Forwarded-Host", "Content-Location", "Link", "Destination"):
        client.post("/detect", content=TILES, headers={header: urls[0]})
    with connected(server.port) as wire:
        wire.send(request(target=urls[0]))
        wire.answer()
    assert listener.connections == 0
    socket.create_connection(("127.0.0.1", listener.port)).close()
    wait_until(lambda: listener.connections == 1, "the listener to count at all")


def _json_with(url: str) -> Iterator[Any]:
    boxes = [[0, 0, 9, 9]]
    yield from (
        {"image": url},
        {"images": [url]},
        {"image": {"url": url}},
        {"image_url": url},
        {"url": url},
        url,
        [url],
    )
    yield from (
        {"image": url, "boxes": boxes},
        {"image": base64.b64encode(TILES).decode(), "boxes": [[url] * 4]},
    )
    yield {"image": base64.b64encode(url.encode()).decode()}
