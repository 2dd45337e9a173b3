"""`--freeze-host`: the host comes out bit-equal, whatever the precision, averaged or resumed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from hindsight.artifact import ResizeRule
from model.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from model.detector import TwoStageDetector
from tests.unit.training.data_sets import voc_object, write_voc
from training.data.dataset import Dataset, open_dataset
from training.frozen_host import FrozenHost, detector_on, open_host
from training.loop import Run, train
from training.recipe import Optimisation, Recipe, RecipeError
from training.train_command import train as train_command

HOST: dict[str, dict[str, object]] = {
    "backbone": {"min_level": 3, "fpn_channels": 8, "frozen_levels": 0},
    "rpn": {
        "anchor_sizes": [16, 32, 64, 128],
        "pre_nms_train": 40,
        "post_nms_train": 20,
        "post_nms_test": 20,
    },
    "head": {"width": 8, "batch_per_image": 8},
}
HEAD = {"localization": {"width": 8, "jitter_per_truth": 2, "boxes_at_inference": 16}}
RULE = ResizeRule(64, 64)


def recipe(**optimisation: object) -> Recipe:
    """A localization head's; its image size is not the host's."""
    options: dict[str, object] = {"epochs": 2, "batch_size": 2, "lr": 0.01, "optimiser": "adamw"}
    return Recipe("hindsight", detector=HEAD, optimisation=Optimisation(**{**options, **optimisation}))  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    objects = [voc_object("cell", 6, 4, 40, 40), voc_object("dust", 30, 10, 60, 44)]
    return write_voc(tmp_path / "voc", {name: objects for name in "abcd"})


@pytest.fixture
def data(folder: Path) -> Dataset:
    return open_dataset(folder, split="train")


def save_host(path: Path, classes: tuple[str, ...] = ("cell", "dust"), model: str = "faster_rcnn") -> Path:
    """A class-specific Faster R-CNN without a localization head, as `import` brings them in."""
    torch.manual_seed(1)
    config = Recipe(model, "tf_efficientnet_lite0", HOST).detector_config(len(classes))
    extra = {"class_names": list(classes), "resize": {"short_side": 64, "long_side": 64}}
    save_checkpoint(path, TwoStageDetector(config), extra | {"recipe": {"model": "imported"}})
    return path


@pytest.fixture
def host(tmp_path: Path) -> FrozenHost:
    return open_host(save_host(tmp_path / "host.safetensors"))


def run(host: FrozenHost, data: Dataset, folder: Path, **optimisation: object) -> Run:
    return Run(
        host.applied(recipe(**optimisation)), data, folder, quiet=True, workers=0, save_every=1, host=host
    )


def test_the_recipe_takes_the_hosts_image_size(host: FrozenHost) -> None:
    assert host.applied(recipe()).resize == RULE
    assert recipe().resize != RULE


@pytest.mark.parametrize("options", [{}, {"amp": "bf16"}, {"ema_decay": 0.9}])
def test_the_host_comes_out_bit_equal_and_the_head_trained(
    host: FrozenHost, data: Dataset, tmp_path: Path, options: dict[str, object]
) -> None:
    train(run(host, data, tmp_path / "run", **options))
    trained, extra = load_checkpoint(tmp_path / "run" / "last.safetensors")
    before = load_checkpoint(host.path)[0].state_dict()
    after = trained.state_dict()
    for key, value in before.items():
        assert torch.equal(after[key], value), key
    torch.manual_seed(0)
    untrained = detector_on(host, recipe()).state_dict()
    added = set(after) - set(before)
    assert added and all(key.startswith("localization.") for key in added)
    assert not any(torch.equal(after[key], untrained[key]) for key in added if key.endswith("weight"))
    assert extra["class_names"] == ["cell", "dust"]
    assert extra["resize"] == {"short_side": 64, "long_side": 64, "pad_multiple": 32}
    assert extra["recipe"] == {"model": "imported"}
    assert extra["frozen_host"] == {"checkpoint": "host.safetensors", "sha256": host.sha256}
    assert trained.config.localization is not None and trained.config.localization.jitter_per_truth == 2


def test_a_resumed_run_ends_as_an_unbroken_one(
    host: FrozenHost, data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(host, data, tmp_path / "whole", ema_decay=0.9)
    train(whole)
    honest, calls = TwoStageDetector.losses, [0]

    def interrupted(self: TwoStageDetector, *args: object) -> dict[str, torch.Tensor]:
        calls[0] += 1
        if calls[0] == 4:
            raise KeyboardInterrupt
        return honest(self, *args)  # type: ignore[arg-type]

    broken = replace(whole, folder=tmp_path / "broken")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TwoStageDetector, "losses", interrupted)
        train(broken)
    train(replace(broken, resume=True))
    ends = [load_checkpoint(tmp_path / n / "last.safetensors")[0].state_dict() for n in ("whole", "broken")]
    for key, value in ends[0].items():
        assert torch.equal(value, ends[1][key]), key


def test_a_run_is_not_resumed_on_another_host(host: FrozenHost, data: Dataset, tmp_path: Path) -> None:
    started = run(host, data, tmp_path / "run", epochs=1)
    train(started)
    other = open_host(save_host(tmp_path / "other.safetensors", model="faster_rcnn_dir"))
    with pytest.raises(CheckpointError, match="can't resume: host was"):
        train(replace(started, host=other, resume=True))


def test_a_head_that_is_there_goes_on(host: FrozenHost, data: Dataset, tmp_path: Path) -> None:
    train(run(host, data, tmp_path / "run", epochs=1))
    grown = open_host(tmp_path / "run" / "last.safetensors")
    assert grown.has_localization and not host.has_localization
    kept = load_checkpoint(grown.path)[0].state_dict()
    for key, value in detector_on(grown, recipe()).state_dict().items():
        assert torch.equal(value, kept[key]), key


def test_a_recipe_without_a_head_gives_the_default_one(host: FrozenHost) -> None:
    detector = detector_on(host, replace(recipe(), model="faster_rcnn", detector={}))
    assert detector.config.localization is not None and detector.config.localization.width == 1024


def test_a_host_that_can_have_no_head_is_refused(tmp_path: Path) -> None:
    torch.manual_seed(1)
    detector = {**HOST, "head": {"width": 8, "class_specific_first": True}}
    config = Recipe("decoupled_rcnn", "tf_efficientnet_lite0", detector).detector_config(2)
    extra = {"class_names": ["a", "b"], "resize": {"short_side": 64, "long_side": 64}}
    save_checkpoint(tmp_path / "host.safetensors", TwoStageDetector(config), extra)
    with pytest.raises(RecipeError, match="class-agnostic regression from a decoupled head"):
        detector_on(open_host(tmp_path / "host.safetensors"), recipe())


def test_a_checkpoint_without_names_is_refused(tmp_path: Path) -> None:
    config = Recipe("faster_rcnn", "tf_efficientnet_lite0", HOST).detector_config(1)
    save_checkpoint(tmp_path / "bare.safetensors", TwoStageDetector(config), {})
    with pytest.raises(CheckpointError, match="names no classes or no resize rule"):
        open_host(tmp_path / "bare.safetensors")


def refusal(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(train_command)
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


@pytest.mark.parametrize("given", [["--freeze-host"], ["--init", "host.safetensors"]])
def test_the_two_options_go_together(tmp_path: Path, given: list[str]) -> None:
    told = refusal("--data", str(tmp_path), "--out", str(tmp_path / "out"), *given)
    assert told == "hindsight: --freeze-host and --init go together: --freeze-host --init CHECKPOINT\n"


def test_a_checkpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "no.safetensors")
    told = refusal("--data", str(tmp_path), "--out", str(tmp_path / "o"), "--freeze-host", "--init", missing)
    assert told.startswith("hindsight: no checkpoint at ") and told.count("\n") == 1


def test_data_of_other_classes_are_refused(folder: Path, tmp_path: Path) -> None:
    other = save_host(tmp_path / "other.safetensors", classes=("cell", "bird"))
    told = refusal("--data", str(folder), "--out", str(tmp_path / "o"), "--freeze-host", "--init", str(other))
    last = told.splitlines()[-1]
    assert "the host's classes are cell, bird" in last and "unknown class 'dust' (known: cell, bird)" in last


def test_the_command_trains_on_the_host(folder: Path, host: FrozenHost, tmp_path: Path) -> None:
    toml = tmp_path / "head.toml"
    toml.write_text(
        "[detector.localization]\nwidth = 8\njitter_per_truth = 1\n"
        "[optimisation]\nbatch_size = 2\nepochs = 1\n"
    )
    app = typer.Typer()
    app.command()(train_command)
    options = {
        "--data": folder,
        "--val-data": folder,
        "--val-split": "train",
        "--init": host.path,
        "--recipe": toml,
        "--out": tmp_path / "run",
        "--workers": 0,
    }
    arguments = [str(part) for pair in options.items() for part in pair]
    result = CliRunner().invoke(app, ["--freeze-host", "--quiet", *arguments])
    assert result.exit_code == 0, result.output
    assert "training adds a localization head, nothing else" in result.stderr
    detector, extra = load_checkpoint(tmp_path / "run" / "last.safetensors")
    assert detector.localization is not None and "AP" in extra["validation"]
