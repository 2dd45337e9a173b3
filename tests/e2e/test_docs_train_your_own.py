"""docs/train-your-own.md says what to type: its commands run, in its order, on a tiny set."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_cli_train import TINY
from tests.unit.training.data_sets import voc_object, write_voc

PAGE = Path(__file__).resolve().parents[2] / "docs" / "train-your-own.md"
# what a machine with two cores and no network needs instead
LEFT_OUT = ("--device cuda", "--amp bf16")
RECIPE = ("--recipe hindsight-r50", "--recipe tiny.toml --weights none --quiet")


def commands() -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("hindsight ") and "serve" not in line]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`my-set/`, a VOC folder with three splits, and a recipe that two cores run in seconds."""
    entries = {f"p{i}": [voc_object("nut", 4, 4, 30, 30)] for i in range(6)}
    root = write_voc(tmp_path / "my-set", entries, (64, 64))
    for split, names in {"train": "012", "val": "34", "test": "5"}.items():
        listed = "".join(f"p{name}\n" for name in names)
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text(listed)
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 3", "epochs = 1"))
    return tmp_path


def test_the_page_names_every_step() -> None:
    assert [shlex.split(line)[1] for line in commands()] == ["train", "train", "evaluate", "export"]


def test_its_commands_lead_from_a_folder_to_a_model(folder: Path) -> None:
    for line in commands():
        if "train.json" in line:  # the same for COCO, which tests/e2e/test_cli_train.py trains on
            continue
        here = line.replace(*RECIPE)
        for part in LEFT_OUT:
            here = here.replace(part, "")
        command = [sys.executable, "-m", *shlex.split(here)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    assert (folder / "runs" / "mine" / "report" / "metrics.json").is_file()
    assert (folder / "models" / "mine" / "model.onnx").is_file()
