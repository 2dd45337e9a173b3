"""`hindsight train` as a user runs it: a process of its own, killed and resumed, refusing bad input."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import load_file
from typer.testing import CliRunner

from hindsight.cli import compose
from tests.recipes import tiny_recipe

TINY = tiny_recipe(
    {
        "head": {"regression_batch_per_image": 16},
        "localization": {"boxes_at_inference": 10, "jitter_per_truth": 1},
    },
    {"lr": 0.002, "batch_size": 2, "epochs": 3, "warmup_steps": 2, "ema_decay": 0.5},
)


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight 64 px photos with a square each, as COCO."""
    root = tmp_path_factory.mktemp("squares")
    (root / "images").mkdir()
    (root / "tiny.toml").write_text(TINY)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(8):
        picture = Image.fromarray(rng.integers(0, 80, (64, 64, 3), dtype=np.uint8))
        x, y, side = (int(v) for v in rng.integers([2, 2, 20], [30, 30, 32]))
        ImageDraw.Draw(picture).rectangle([x, y, x + side - 1, y + side - 1], fill=(220, 40 * (i % 2), 90))
        picture.save(root / "images" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
        box = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
        annotations.append({"id": i + 1, "image_id": i, "category_id": 7, **box})
    coco = {"images": images, "annotations": annotations, "categories": [{"id": 7, "name": "square"}]}
    (root / "train.json").write_text(json.dumps(coco))
    return root


def command(tiny_set: Path, out: Path, *more: str) -> list[str]:
    train = str(tiny_set / "train.json")
    recipe = ["--recipe", str(tiny_set / "tiny.toml"), "--weights", "none", "--quiet", "--workers", "0"]
    return [
        sys.executable,
        "-m",
        "hindsight",
        "train",
        "--data",
        train,
        "--out",
        str(out),
        *recipe,
        *more,
    ]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        arguments, capture_output=True, text=True, timeout=240, env=environment, check=False
    )


def refuse(arguments: list[str]) -> str:
    """What a user reads when a command is refused; in this process, since torch takes seconds to load."""
    result = CliRunner().invoke(compose("train"), arguments[arguments.index("train") :])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_killed_run_resumes_as_if_nothing_had_happened(tiny_set: Path, tmp_path: Path) -> None:
    """kill -9 in the middle, --resume: the same losses, rates and final weights as a run left alone."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    validate = ["--val-data", str(tiny_set / "train.json")]
    left_alone = run(command(tiny_set, whole, *validate))
    assert left_alone.returncode == 0, left_alone.stderr
    process = subprocess.Popen(
        command(tiny_set, broken, "--save-every", "1", *validate),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if (broken / "losses.csv").exists() and len(rows(broken / "losses.csv")) >= 6:
            break
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = len(rows(broken / "losses.csv"))
    assert before < 12, "killed too late to prove anything"
    again = run(command(tiny_set, broken, "--resume", *validate))
    assert again.returncode == 0, again.stderr
    expected, got = rows(whole / "losses.csv"), rows(broken / "losses.csv")
    assert [r["step"] for r in got] == [str(i) for i in range(12)]
    for a, b in zip(expected, got, strict=True):
        assert {k: float(v) for k, v in b.items()} == pytest.approx(
            {k: float(v) for k, v in a.items()}, rel=1e-4
        )
    last, last_again = load_file(whole / "last.safetensors"), load_file(broken / "last.safetensors")
    for name, value in last.items():
        np.testing.assert_allclose(last_again[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert [r["epoch"] for r in rows(broken / "validation.csv")] == ["0", "1", "2"]
    assert list((broken / "tensorboard").glob("events*"))


def test_a_run_is_not_overwritten_nor_resumed_as_another(tiny_set: Path, tmp_path: Path) -> None:
    first = run(command(tiny_set, tmp_path, "--epochs", "1"))
    assert first.returncode == 0, first.stderr
    assert "holds a run already" in refuse(command(tiny_set, tmp_path, "--epochs", "1"))
    assert "can't resume: recipe was" in refuse(command(tiny_set, tmp_path, "--epochs", "2", "--resume"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.json"], "no such file"),
        (["--recipe", "cellz"], "no recipe 'cellz'"),
        (["--device", "cuda:7"], "device 'cuda:7' can't be used"),
        (["--device", "tpu!"], "device 'tpu!' can't be used"),
        (["--amp", "fp8"], "amp must be"),
        (["--amp", "fp16"], "fp16 training needs CUDA"),
        (["--weights", "no.safetensors"], "no checkpoint at"),
        (["--resume"], "no checkpoint at"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tiny_set: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert message in refuse(command(tiny_set, tmp_path / "out", *arguments))


def test_bad_boxes_are_listed_and_skipped_on_request(tiny_set: Path, tmp_path: Path) -> None:
    coco = json.loads((tiny_set / "train.json").read_text())
    coco["annotations"][2]["bbox"] = [10, 10, -5, 8]
    bad = tiny_set / "bad.json"
    bad.write_text(json.dumps(coco))
    refused = refuse(command(tiny_set, tmp_path / "out", "--data", str(bad)))
    assert "bad.json" in refused
    assert "--skip-bad" in refused
    accepted = run(command(tiny_set, tmp_path / "out", "--data", str(bad), "--skip-bad", "--epochs", "1"))
    assert accepted.returncode == 0, accepted.stderr
    assert "1 bad entries left out" in accepted.stderr
