"""A server that answers by script, and both clients to try on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import hindsight
from tests.stub_server import Driven, StubServer, stub_server


@pytest.fixture
def server() -> Iterator[StubServer]:
    with stub_server() as running:
        yield running


@pytest.fixture(params=[hindsight.Client, Driven], ids=["sync", "async"])
def make(request: pytest.FixtureRequest, server: StubServer) -> Iterator[Callable[..., Any]]:
    """make(**arguments) -> a client of that server."""
    made = []

    def client(url: str | None = None, **arguments: Any) -> Any:
        made.append(request.param(server.url if url is None else url, **arguments))
        return made[-1]

    yield client
    for each in made:
        each.close()
