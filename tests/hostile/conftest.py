"""Servers to attack, and the check that follows each attack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.factories import make_tiny_artifact
from tests.hostile.vitals import assert_unharmed, vitals_of
from tests.server_process import TILES, ServerProcess, assert_finds_tiles, serving

CONNECTIONS, PER_PEER = 40, 60


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny").path


@contextmanager
def _attackable(folder: Path, tiny: Path, **settings: object) -> Iterator[ServerProcess]:
    with serving(folder, "--model", str(tiny), **settings) as server:
        check_health(server)  # whatever starts at the first request has started
        yield server


@pytest.fixture(scope="session")
def server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """As anybody starts it."""
    with _attackable(tmp_path_factory.mktemp("server"), tiny) as running:
        yield running


@pytest.fixture(scope="session")
def strict_server(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With little patience, so that its limits are soon met."""
    limits = {
        "header_timeout": 1.5,
        "keep_alive_timeout": 1,
        "write_timeout": 2,
        "body_timeout": 3,
        "max_connections": CONNECTIONS,
    }
    with _attackable(tmp_path_factory.mktemp("strict"), tiny, **limits) as running:
        yield running


@pytest.fixture
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


@pytest.fixture
def unharmed(server: ServerProcess) -> Iterator[None]:
    """Whatever a test does to `server`: afterwards it is whole."""
    yield from _unharmed(server)


@pytest.fixture
def strict_unharmed(strict_server: ServerProcess) -> Iterator[None]:
    """The same for `strict_server`."""
    yield from _unharmed(strict_server)


def _unharmed(server: ServerProcess) -> Iterator[None]:
    before = vitals_of(server)
    yield
    check_health(server)
    assert_unharmed(server, before)
    assert [record for record in server.log() if record["level"] == "error"] == []


def check_health(server: ServerProcess) -> None:
    """A new client is answered, and correctly."""
    with httpx.Client(base_url=server.url, timeout=60) as client:
        assert_finds_tiles(client.post("/detect", content=TILES).json())
