"""What `hindsight parity` writes into an engine's record decides whether the server starts on that engine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from export.parity_cli import parity
from hindsight.artifact import Artifact
from hindsight.engines import read_engine
from tests.e2e import engine_runtime
from tests.factories import make_tiny_artifact
from tests.server_process import REPOSITORY, TILES, assert_finds_tiles, serving


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """With an engine, and with the runtime that loads it on the path of this process and of its children."""
    engine_runtime.install(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    return make_tiny_artifact(tmp_path / "tiny")


def compare(artifact: Artifact, backend: str, folder: Path, reference: str = "onnxruntime") -> int:
    app = typer.Typer()
    app.command()(parity)
    words = [str(artifact.path), "--backends", f"{reference},{backend}", "--images"]
    words += [str(artifact.path / "samples"), "--out", str(folder / "parity.json")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code in (0, 1), result.output
    return result.exit_code


def test_an_engine_that_failed_is_refused_until_it_passes(artifact: Artifact, tmp_path: Path) -> None:
    engine = engine_runtime.write_engine(artifact)
    assert compare(artifact, "engine-here:unchecked:moved", tmp_path) == 1
    failed = read_engine(engine).record.parity
    assert failed is not None and not failed.passed and failed.outliers > 0

    words = ["--port", "0", "--backend", "engine-here", "--model", str(artifact.path)]
    refused = subprocess.run(
        [sys.executable, "-m", "service", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert refused.returncode != 0 and "Hindsight is ready" not in refused.stdout
    assert "does not answer as the model" in refused.stderr and engine.name in refused.stderr

    assert compare(artifact, "engine-here:unchecked", tmp_path) == 0
    passed = read_engine(engine).record.parity
    assert passed is not None and passed.passed and passed.compared > 0 and passed.max_pixels == 0
    with serving(tmp_path, "--backend", "engine-here", "--model", str(artifact.path)) as server:
        assert_finds_tiles(server.client.post("/detect", content=TILES).json())


def test_agreement_of_two_engines_is_not_recorded(artifact: Artifact, tmp_path: Path) -> None:
    engine = engine_runtime.write_engine(artifact)
    both = "engine-here:unchecked:moved"
    assert compare(artifact, both, tmp_path, reference=both) == 0
    assert read_engine(engine).record.parity is None
