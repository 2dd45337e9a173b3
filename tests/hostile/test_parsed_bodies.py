"""Bodies that take far more memory once they are parsed: only as many at once as there are threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.factories import make_tiny_artifact
from tests.server_process import ServerProcess, serving

MANY = 10
LISTS = 1_500_000  # 64 bytes each in Python, 3 in JSON
MOST_KILOBYTES = 450_000  # two of them, and what the JSON and its copies take; ten would take a gigabyte


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    tiny = make_tiny_artifact(tmp_path / "tiny")
    with serving(tmp_path / "run", "--model", str(tiny.path), "--backend", "sleep:1") as running:
        yield running


def test_numbers_of_many_requests_are_not_held_while_they_wait_for_a_thread(server: ServerProcess) -> None:
    lists = b",".join([b"[]"] * LISTS)
    body = b'{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [' + lists + b"]}]}"

    def send(_: int) -> int:
        return httpx.post(f"{server.url}/v2/models/tiny/infer", content=body, timeout=250).status_code

    before = server.peak_kilobytes()
    with ThreadPoolExecutor(MANY) as clients:
        assert list(clients.map(send, range(MANY))) == [400] * MANY
    assert server.peak_kilobytes() - before < MOST_KILOBYTES
