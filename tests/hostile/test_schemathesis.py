"""Schemathesis reads /openapi.json and sends what it allows, and what it forbids, to a live server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.factories import make_tiny_artifact
from tests.hostile.vitals import assert_unharmed, vitals_of
from tests.server_process import TILES, ServerProcess, serving

EXAMPLES = 20  # for each operation, besides those of its coverage phase


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With a model of the name and the classes that the document's examples use."""
    folder = tmp_path_factory.mktemp("described")
    model = make_tiny_artifact(folder / "cells", name="cells", class_names=("RBC", "WBC", "Platelets"))
    with serving(folder / "server", "--model", str(model.path), "--backend", "sleep:1") as server:
        with httpx.Client(base_url=server.url, timeout=60) as client:
            assert client.post("/detect", content=TILES).status_code == 200
        yield server


def test_the_server_keeps_to_its_description(described: ServerProcess, tmp_path: Path) -> None:
    before = vitals_of(described)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--no-color", "run", f"{described.url}/openapi.json"),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES)),
        *("--generation-deterministic", "--no-shrink", "--continue-on-failure", "--request-timeout", "60"),
        # No schema can say which bytes are an image that can be decoded, or which boxes lie in it.
        *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "Tested: " in done.stdout
    assert_unharmed(described, before)
    assert [record for record in described.log() if record["level"] == "error"] == []


def test_the_examples_of_the_description_work(described: ServerProcess) -> None:
    with httpx.Client(base_url=described.url, timeout=60) as client:
        paths = client.get("/openapi.json").json()["paths"]
        for path in ("/detect", "/rescore"):
            content = paths[path]["post"]["requestBody"]["content"]
            answer = client.post(path, json=content["application/json"]["example"])
            assert answer.status_code == 200, answer.text
