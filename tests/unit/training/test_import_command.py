"""`hindsight import`: what it reads, what it writes, and what it says of what it can't read."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import typer
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from model.checkpoint import load_checkpoint
from tests.parity.mmdetection_reference import CLASSES, detector_shapes, random_state
from training.frozen_host import open_host
from training.import_command import import_detector
from training.import_sources import TORCHVISION, categories

NAMES = ("red", "white", "platelet")


def run(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(import_detector)
    return CliRunner().invoke(app, [str(a) for a in arguments])


def refusal(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("hindsight: ") and result.stderr.count("\n") == 1
    return str(result.stderr)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """An mmdetection Faster R-CNN of three classes."""
    return random_state(detector_shapes(None, class_specific=True))


@pytest.fixture(scope="module")
def pth(state: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As mmdetection 2 saves it."""
    path = tmp_path_factory.mktemp("mmdet") / "faster.pth"
    torch.save({"meta": {"CLASSES": NAMES, "epoch": 12}, "state_dict": state}, path)
    return path


def test_a_pth_with_names_becomes_a_checkpoint_to_freeze(pth: Path, tmp_path: Path) -> None:
    out = tmp_path / "host.safetensors"
    result = run(pth, "--out", out, "--short-side", 480, "--long-side", 640)
    assert result.exit_code == 0, result.output
    assert "mmdetection Faster R-CNN, resnet50, 3 classes (red, white, platelet)" in result.stderr
    detector, extra = load_checkpoint(out)
    assert detector.config.pooling.aligned and detector.config.num_classes == CLASSES
    assert extra["resize"] == {"short_side": 480, "long_side": 640, "pad_multiple": 32}
    assert extra["imported"] == {"source": "faster.pth", "layout": "mmdetection Faster R-CNN"}
    host = open_host(out)
    assert host.class_names == NAMES and not host.has_localization


def test_names_are_taken_from_mmdetection_3_from_the_command_line_or_from_a_file(
    state: dict[str, Tensor], tmp_path: Path
) -> None:
    third = tmp_path / "third.pth"
    torch.save({"meta": {"dataset_meta": {"classes": NAMES}}, "state_dict": state}, third)
    bare = tmp_path / "bare.safetensors"
    save_file(state, bare)
    listed = tmp_path / "classes.txt"
    listed.write_text("a\nb\n\nc\n")
    out = tmp_path / "out.safetensors"
    for arguments, expected in (
        ([third], NAMES),
        ([third, "--classes", "x, y,z"], ("x", "y", "z")),
        ([bare, "--classes", listed], ("a", "b", "c")),
    ):
        assert run(*arguments, "--out", out).exit_code == 0
        assert open_host(out).class_names == expected


def test_names_that_do_not_fit_are_refused(pth: Path, state: dict[str, Tensor], tmp_path: Path) -> None:
    bare, out = tmp_path / "bare.safetensors", tmp_path / "out.safetensors"
    save_file(state, bare)
    assert "bare.safetensors doesn't name its classes: give its 3 with --classes" in refusal(
        bare, "--out", out
    )
    assert "has 3 classes, got 2 names: a, b" in refusal(pth, "--out", out, "--classes", "a,b")
    assert "must differ and not be empty, got a, b, a" in refusal(pth, "--out", out, "--classes", "a,b,a")
    assert not out.exists()


class NotWeights:
    """What plain pickle would build, running code on the way."""


@pytest.mark.parametrize("content", [{"state_dict": {}, "args": argparse.Namespace(lr=1)}, NotWeights()])
def test_nothing_but_tensors_is_unpickled(content: object, tmp_path: Path) -> None:
    path = tmp_path / "training.pth"
    torch.save(content, path)
    told = refusal(path, "--out", tmp_path / "out.safetensors")
    assert (
        "holds more than tensors and plain values" in told and "save its state_dict as .safetensors" in told
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "holds no weights by name, but a list"),
        ({"epoch": 3}, "holds no weights by name"),
        (
            {"state_dict": {"a.b": torch.zeros(1)}},
            "1 weights of an unknown layout (first: 'a.b'); tried: torch",
        ),
    ],
)
def test_files_without_a_known_detector_are_refused(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    assert message in refusal(path, "--out", tmp_path / "out.safetensors")


def test_broken_files_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    for name, message in (
        ("a.pth", "a.pth is not a readable file of weights"),
        ("a.safetensors", "not a readable safetensors file"),
    ):
        path = tmp_path / name
        path.write_bytes(b"these are not the weights you are looking for")
        assert message in refusal(path, "--out", out)


def test_a_checkpoint_of_our_own_is_refused(pth: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours.safetensors"
    assert run(pth, "--out", ours).exit_code == 0
    assert "is a Hindsight checkpoint already" in refusal(ours, "--out", tmp_path / "again.safetensors")


@pytest.mark.parametrize("source", ["torchvision:fasterrcnn", "resnet", "torchvision:"])
def test_an_unknown_source_lists_the_known_ones(source: str, tmp_path: Path) -> None:
    told = refusal(source, "--out", tmp_path / "out.safetensors")
    assert f"unknown source {source!r}" in told and "file of weights" in told
    assert all(f"torchvision:{name}" in told for name in TORCHVISION)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "host.pth"], "--out must name a .safetensors file, got host.pth"),
        (["--style", "tf"], '--style must be "pytorch" or "caffe", got \'tf\''),
        (["--norm-eps", "-1"], "--norm-eps must be at least 0"),
        (["--norm-eps", "nan"], "--norm-eps must be at least 0"),
        (["--short-side", "900", "--long-side", "600"], "--short-side 900 exceeds --long-side 600"),
    ],
)
def test_bad_options_are_refused(pth: Path, tmp_path: Path, options: list[str], message: str) -> None:
    assert message in refusal(pth, "--out", tmp_path / "out.safetensors", *options)


def test_published_weights_are_fetched_by_hash_without_unpickling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """There is no network in tests: what is asked of torchvision is checked, and how failing is told."""
    asked: dict[str, Any] = {}

    def refuse(url: str, **options: Any) -> None:
        asked.update(options, url=url)
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    told = refusal("torchvision:fasterrcnn_resnet50_fpn_v2", "--out", tmp_path / "out.safetensors")
    assert "could not fetch the weights of fasterrcnn_resnet50_fpn_v2 (OSError): give a file" in told
    assert asked["weights_only"] is True and asked["check_hash"] is True
    assert "fasterrcnn_resnet50_fpn_v2_coco" in asked["url"]


def test_the_published_names_and_epsilons_are_torchvisions() -> None:
    for builder, (weights_name, norm_eps) in TORCHVISION.items():
        weights = getattr(torchvision.models.detection, weights_name).DEFAULT
        names = categories(weights.meta["categories"])
        assert len(names) == len(set(names)) == 90 and names[0] == "person" and names[11] == "unused 12"
        source = inspect.getsource(getattr(torchvision.models.detection, builder))
        assert ("overwrite_eps(model, 0.0)" in source) == (norm_eps == 0.0)
