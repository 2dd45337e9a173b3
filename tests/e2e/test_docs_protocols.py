"""docs/protocols.md says how to call: its Python blocks run, against a server of a model of that name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.label_studio.config import read_control
from tests.factories import encode, make_tiny_artifact, tiles_image
from tests.server_process import REPOSITORY, ServerProcess, serving

PAGE = REPOSITORY / "docs" / "protocols.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("cells")
    make_tiny_artifact(folder / "cells", name="cells")
    with serving(folder, "--model", str(folder / "cells"), "--grpc-port", "0") as running:
        yield running


PRINTED = (
    r"red \[.*\] purity 0\.9\d\ngreen \[.*\] purity 0\.9\d",
    r"\[2\] \(1, 20, 4\)",
    r"\(1, 2, 4\)",
)


@pytest.mark.parametrize(("block", "printed"), list(zip(blocks("python"), PRINTED, strict=True)))
def test_its_examples_run(server: ServerProcess, tmp_path: Path, block: str, printed: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(encode(tiles_image(), "JPEG", quality=95))
    grpc_port = server.ready_line.rpartition("gRPC port: ")[2].rstrip().rstrip(")")
    code = block.replace("localhost:8000", f"127.0.0.1:{server.port}")
    code = code.replace("localhost:8001", f"127.0.0.1:{grpc_port}")
    models = str(Path(server.log_path).parent)
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HINDSIGHT_MODELS": models}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.fullmatch(printed, done.stdout.strip()), done.stdout


def test_its_labeling_configuration_can_be_served() -> None:
    [config] = blocks("xml")
    control = read_control(config, ("RBC", "WBC", "Platelets"))
    assert control.labels == {"RBC": "Red cell", "WBC": "WBC"}
    assert (control.from_name, control.to_name, control.key) == ("label", "image", "image")
    assert control.score_threshold == 0.4


def test_every_test_it_names_is_there() -> None:
    names = re.findall(r"(test_\w+\.py)", PAGE.read_text())
    assert names and all((REPOSITORY / "tests" / "e2e" / name).is_file() for name in names)
