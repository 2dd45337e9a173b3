"""`hindsight detect --tile`, as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hindsight.manifest import ResizeRule
from tests.factories import encode, make_tiny_artifact

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "models" / "tiny", resize=ResizeRule(96, 96, 32))
    monkeypatch.setenv("HINDSIGHT_MODELS", str(artifact.path))
    monkeypatch.chdir(tmp_path)
    image = np.zeros((192, 288, 3), np.uint8)
    image[32:64, 128:160, 0] = 255
    (tmp_path / "large.png").write_bytes(encode(image))


@pytest.fixture
def run(run: Run) -> Run:
    """run(*arguments) -> exit status, stdout, stderr of `hindsight detect` on that image."""
    return lambda *arguments: run("detect", "large.png", "--model", "tiny", *arguments)


def test_tiles_find_what_one_pass_does_not(run: Run) -> None:
    threshold = ("--score-threshold", "0.8", "--json")
    status, out, _ = run(*threshold)
    assert (status, json.loads(out)["detections"]) == (0, [])
    for more in ((), ("--no-whole",)):
        status, out, _ = run(*threshold, "--tile", "96", "--overlap", "0", *more)
        assert status == 0
        assert [each["box"] for each in json.loads(out)["detections"]] == [[128, 32, 160, 64]]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tile", "5"), "at least 32"),
        (("--tile", "96", "--overlap", "0.95"), "0..0.9"),
        (("--overlap", "0.2"), "give tile"),
        (("--no-whole",), "give tile"),
    ],
)
def test_what_cannot_be_asked_for_is_one_line(run: Run, arguments: tuple[str, ...], words: str) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert words in err and err.count("\n") == 1
