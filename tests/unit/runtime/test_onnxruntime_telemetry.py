"""ONNX Runtime's wheels from 1.31 on record use and send it to Microsoft; through us they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
DETECT = "import numpy as np, hindsight; hindsight.load('cells').detect(np.zeros((64, 64, 3), np.uint8))"


def test_nothing_is_recorded(tmp_path: Path) -> None:
    """The record would lie in the user's cache folder."""
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", DETECT]
    answer = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == []
    assert "telemetry" not in answer.stderr.lower()
