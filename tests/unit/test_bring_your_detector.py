"""The commands of docs/bring-your-detector.md do what it says, from the file of weights to a second opinion.

Left out: what needs the network (installing, torchvision's weights) and export, which has tests of its own.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from model.checkpoint import load_checkpoint
from tests.parity.mmdetection_reference import detector_shapes, random_state
from tests.unit.training.data_sets import voc_object, write_image, write_voc
from training.cli import evaluate, import_detector, train
from training.import_sources import TORCHVISION

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "bring-your-detector.md").read_text()
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]
FUNCTIONS = {"import": import_detector, "train": train, "evaluate": evaluate}
# so that the test takes seconds: tiny images, one pass, a narrow head
CHEAPER = {
    "import": ["--short-side", "64", "--long-side", "96"],
    "train": ["--epochs", "1", "--batch-size", "2", "--recipe", "narrow.toml", "--quiet", "--workers", "0"],
    "evaluate": [],
}
NARROW = "[detector.localization]\nwidth = 16\nboxes_at_inference = 32\n"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the page takes for given: faster.pth with names, and my-set/ with two splits."""
    state = random_state(detector_shapes(None, class_specific=True))
    torch.save(
        {"meta": {"CLASSES": ("red", "white", "platelet")}, "state_dict": state}, tmp_path / "faster.pth"
    )
    objects = [voc_object("red", 6, 4, 40, 40), voc_object("white", 30, 10, 60, 44)]
    root = write_voc(tmp_path / "my-set", {name: objects for name in "abc"})
    lists = root / "ImageSets" / "Main"
    (lists / "train.txt").write_text("a\nb\n")
    (lists / "val.txt").write_text("c\n")
    write_image(root / "JPEGImages" / "c.png", seed=9)
    (tmp_path / "narrow.toml").write_text(NARROW)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_pages_commands_run_in_order(workplace: Path) -> None:
    ran = []
    for program, *arguments in COMMANDS:
        if program != "hindsight" or arguments[0] == "export" or arguments[1].startswith("torchvision:"):
            continue
        app = typer.Typer()
        app.command()(FUNCTIONS[arguments[0]])
        result = CliRunner().invoke(app, [*arguments[1:], *CHEAPER[arguments[0]]])
        assert result.exit_code == 0, f"{arguments}: {result.output} {result.exception}"
        ran.append(arguments[0])
    assert ran == ["import", "import", "evaluate", "train", "evaluate"]
    host = load_checkpoint(workplace / "host.safetensors")[0].state_dict()
    detector, _ = load_checkpoint(workplace / "runs" / "second-look" / "best.safetensors")
    after = detector.state_dict()
    assert detector.localization is not None and all(torch.equal(after[k], v) for k, v in host.items())


def test_the_page_names_every_source_and_the_measured_cost() -> None:
    assert all(f"`{name}`" in PAGE for name in TORCHVISION)
    measured = json.loads((ROOT / "benchmarks" / "results" / "freeze-host.json").read_text())
    ratio = measured["frozen_over_full"]
    assert f"{ratio['seconds']['median']:.0%} of the time" in PAGE
    assert f"{ratio['peak_memory']:.0%} of the memory" in PAGE
