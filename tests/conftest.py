"""What every test may use: the real data sets, the tiny artifact of factories.py, and the command line."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hindsight.artifact import Artifact
from hindsight.cli import main
from tests.factories import make_tiny_artifact

REPOSITORY = Path(__file__).resolve().parent.parent

# A shell without job control starts what runs in the background with SIGINT ignored, `nohup` ignores SIGHUP,
# and children inherit that: what these signals should end would go on.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data sets (bccd/, coco_mini/): $HINDSIGHT_DATA, else ../shared/data beside the
    repository.
    """
    folder = Path(os.environ.get("HINDSIGHT_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(
            f"no data sets at {folder}: set HINDSIGHT_DATA to the folder that holds bccd/ and coco_mini/"
        )
    return folder


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The tiny model of factories.py. Shared by all tests: make your own to change a file in it."""
    return make_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """run(*arguments) -> exit status, stdout, stderr of `hindsight`."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hindsight", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return call
