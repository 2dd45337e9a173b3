"""One server for the tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.factories import make_tiny_artifact
from tests.server_process import TILES, ServerProcess, assert_finds_tiles, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With the models `tiny`, the default, `plain`, which has no localization head, and `masked`."""
    folder = tmp_path_factory.mktemp("inputs")
    make_tiny_artifact(folder / "tiny")
    make_tiny_artifact(folder / "plain", name="plain", localization=False)
    make_tiny_artifact(folder / "masked", name="masked", masks=True)
    models = (option for name in ("tiny", "plain", "masked") for option in ("--model", str(folder / name)))
    with serving(folder, *models) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened


@pytest.fixture(scope="module")
def log_without_traceback(server: ServerProcess) -> Iterator[None]:
    """Of all that a file's tests have sent."""
    yield
    assert [record for record in server.log() if record["level"] == "error"] == []


@pytest.fixture
def healthy_afterwards(log_without_traceback: None, client: httpx.Client) -> Iterator[None]:
    """Whatever a test has sent, good or bad: the server answers the next request."""
    yield
    assert_finds_tiles(client.post("/detect", content=TILES, headers={"content-type": "image/png"}).json())
