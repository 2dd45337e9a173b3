"""One server for the tests that only ask."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.factories import make_tiny_artifact
from tests.server_process import ServerProcess, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With the models `tiny`, the default, and `plain`, which has no localization head."""
    folder = tmp_path_factory.mktemp("inputs")
    make_tiny_artifact(folder / "tiny")
    make_tiny_artifact(folder / "plain", name="plain", localization=False)
    models = ("--model", str(folder / "tiny"), "--model", str(folder / "plain"))
    with serving(folder, *models) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as opened:
        yield opened
