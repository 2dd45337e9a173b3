"""Several processes train as one would: torchrun on the CPU, with real processes and sockets."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from tests.recipes import tiny_recipe

# everything that could be drawn at random is in the sample: then the processes owe the same step to the digit
RECIPE = tiny_recipe(
    {
        "rpn": {"batch_per_image": 10_000},
        "head": {"batch_per_image": 500, "regression_batch_per_image": 500},
        "localization": {"jitter_per_truth": 0},
    },
    {"lr": 0.01, "batch_size": 4, "epochs": 2, "warmup_steps": 1, "ema_decay": 0.5},
)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@pytest.fixture(scope="module")
def uneven_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos with one to four squares: shares of a batch differ in what there is to learn."""
    root = tmp_path_factory.mktemp("uneven")
    (root / "images").mkdir()
    (root / "recipe.toml").write_text(RECIPE)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(8):
        pixels = rng.integers(0, 90, (64, 64, 3)).astype(np.uint8)
        for corner in range(index % 4 + 1):
            x, y = 32 * (corner % 2) + 3, 32 * (corner // 2) + 3
            pixels[y : y + 20, x : x + 22] = 220
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": 1,
                    "bbox": [x, y, 22, 20],
                    "area": 440,
                    "iscrowd": 0,
                }
            )
        Image.fromarray(pixels).save(root / "images" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": 64, "height": 64})
    document = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "square"}],
    }
    (root / "train.json").write_text(json.dumps(document))
    return root


def train(root: Path, out: Path, launcher: list[str], *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "-m", "hindsight", "train", "--data", str(root / "train.json")]
    command += ["--recipe", str(root / "recipe.toml"), "--weights", "none", "--out", str(out)]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.run(
        [*command, "--quiet", "--threads", "1", *more],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**environment, "OMP_NUM_THREADS": "1"},
    )


def losses(out: Path) -> list[dict[str, float]]:
    with (out / "losses.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_two_processes_give_the_losses_and_weights_of_one(uneven_set: Path, tmp_path: Path) -> None:
    for name, launcher in (("one", []), ("two", [*TORCHRUN, "2"])):
        done = train(uneven_set, tmp_path / name, launcher)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stderr.count("training: 8 images") == 1  # one process talks
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == 4
    for alone, together in zip(one, two, strict=True):
        for name, value in alone.items():
            assert together[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
    weights = [load_file(tmp_path / name / "last.safetensors") for name in ("one", "two")]
    for key, value in weights[0].items():
        np.testing.assert_allclose(value, weights[1][key], atol=1e-4, rtol=1e-3, err_msg=key)


def test_processes_that_cannot_share_a_batch_stop_with_one_line(uneven_set: Path, tmp_path: Path) -> None:
    done = train(uneven_set, tmp_path / "out", [*TORCHRUN, "2"], "--batch-size", "3")
    assert done.returncode != 0
    assert "can't be shared evenly by 2 processes: expected a multiple of 2" in done.stderr


def test_a_deterministic_run_repeats_itself_to_the_last_digit(uneven_set: Path, tmp_path: Path) -> None:
    for name in ("first", "second"):
        done = train(uneven_set, tmp_path / name, [], "--deterministic", "--threads", "2")
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "first/losses.csv").read_bytes() == (tmp_path / "second/losses.csv").read_bytes()
    weights = [load_file(tmp_path / name / "last.safetensors") for name in ("first", "second")]
    for key, value in weights[0].items():
        np.testing.assert_array_equal(value, weights[1][key], err_msg=key)
