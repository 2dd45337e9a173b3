"""Checkpoints come back as they went, and a file that is none says so in one line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.backbone import build_backbone
from model.checkpoint import (
    FORMAT,
    CheckpointError,
    config_from_dict,
    load_backbone,
    load_checkpoint,
    read_tensors,
    round_to_half,
    save_checkpoint,
    save_tensors,
)
from model.config import BackboneConfig, DetectorConfig, HeadConfig
from model.detector import TwoStageDetector
from model.zoo import config_of
from tests.unit.model.toys import detect, toy_config, toy_detector, toy_images

EXTRA = {"class_names": ["a", "b", "c"], "resize": {"short_side": 64}}


@pytest.fixture(scope="module")
def detector() -> TwoStageDetector:
    return toy_detector()


@pytest.fixture
def saved(detector: TwoStageDetector, tmp_path: Path) -> Path:
    path = tmp_path / "run" / "last.safetensors"
    save_checkpoint(path, detector, EXTRA)
    return path


def rewrite(path: Path, **metadata: str) -> Path:
    """The same tensors under other metadata; an empty value removes the key."""
    tensors, old = read_tensors(path)
    save_tensors(path, tensors, {k: v for k, v in (old | metadata).items() if v})
    return path


def complaint(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    return str(caught.value)


def test_a_checkpoint_comes_back_as_it_went(saved: Path, detector: TwoStageDetector) -> None:
    loaded, extra = load_checkpoint(saved)
    assert extra == EXTRA and loaded.config == detector.config and not loaded.training
    images = toy_images(2)
    for mine, theirs in zip(detect(loaded, images), detect(detector, images), strict=True):
        assert (mine is None and theirs is None) or torch.equal(mine, theirs)
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]  # nothing half-written is left


def test_other_weights_can_be_saved_in_place_of_its_own(detector: TwoStageDetector, tmp_path: Path) -> None:
    averaged = {k: torch.zeros_like(v) for k, v in detector.state_dict().items()}
    save_checkpoint(tmp_path / "ema.safetensors", detector, {}, averaged)
    loaded, _ = load_checkpoint(tmp_path / "ema.safetensors")
    assert not any(v.any() for v in loaded.state_dict().values())


@pytest.mark.parametrize(
    "config",
    [
        toy_config(),
        config_of("faster_rcnn", 80),
        config_of("hindsight", 3, backbone="resnet101", stages=2),
        DetectorConfig(2, head=HeadConfig(loss_weight=0.25)),
    ],
)
def test_a_config_survives_json(config: DetectorConfig) -> None:
    assert config_from_dict(DetectorConfig, json.loads(json.dumps(asdict(config)))) == config


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "nowhere.safetensors" in complaint(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("size", [0, 4, 300, -20])
def test_a_truncated_file_is_refused(saved: Path, size: int) -> None:
    data = saved.read_bytes()
    saved.write_bytes(data[:size])
    assert "not a readable safetensors file" in complaint(saved)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    path.write_text("these are not the weights you are looking for")
    assert "not a readable safetensors file" in complaint(path)


def test_another_format_is_named(saved: Path) -> None:
    assert "hindsight-checkpoint-9" in complaint(rewrite(saved, format="hindsight-checkpoint-9"))
    assert "missing" in complaint(rewrite(saved, format=""))


def test_a_checkpoint_without_its_description_is_refused(saved: Path) -> None:
    assert "extra" in complaint(rewrite(saved, extra=""))
    assert "does not fit" in complaint(rewrite(saved, extra="{"))


def edited(config: DetectorConfig, **changes: Any) -> str:
    return json.dumps(asdict(config) | changes)


def test_an_unknown_key_is_named_with_the_nearest(saved: Path, detector: TwoStageDetector) -> None:
    message = complaint(rewrite(saved, config=edited(detector.config, max_detection=5)))
    assert "'max_detection'" in message and "did you mean 'max_detections'?" in message


@pytest.mark.parametrize(
    "changes",
    [{"num_classes": {"a": 1}}, {"num_classes": 0}, {"head": {"kind": "cascade"}}, {"num_classes": 7}],
)
def test_a_config_that_fits_nothing_is_refused(
    saved: Path, detector: TwoStageDetector, changes: dict[str, Any]
) -> None:
    assert "does not fit this version" in complaint(rewrite(saved, config=edited(detector.config, **changes)))


def test_missing_weights_are_refused(saved: Path) -> None:
    tensors, metadata = read_tensors(saved)
    tensors.pop("rpn.conv.weight")
    save_tensors(saved, tensors, metadata)
    assert "rpn.conv.weight" in complaint(saved)


def test_an_unknown_backbone_in_a_checkpoint_is_refused(saved: Path, detector: TwoStageDetector) -> None:
    backbone = asdict(detector.config.backbone) | {"name": "resnet5O"}
    assert "unknown backbone 'resnet5O'" in complaint(
        rewrite(saved, config=edited(detector.config, backbone=backbone))
    )


def test_a_crash_while_writing_leaves_the_old_file(
    saved: Path, detector: TwoStageDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("model.checkpoint.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(saved, detector, {"changed": True})
    assert saved.read_bytes() == before


BACKBONE = BackboneConfig("test_efficientnet", min_level=3, fpn_channels=16, frozen_levels=0)


def pretrained() -> dict[str, Tensor]:
    """Another backbone's weights in half precision, with the classifier that detection has no use for."""
    torch.manual_seed(5)
    state = build_backbone(BACKBONE).net.state_dict()  # type: ignore[union-attr]
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}  # type: ignore[union-attr,operator]
    return halves | {"classifier.weight": torch.zeros(3, 3), "conv_head.weight": torch.zeros(1)}


def test_pretrained_weights_reach_the_backbone_whatever_their_precision(tmp_path: Path) -> None:
    detector, state = toy_detector(spread=False), pretrained()
    save_tensors(tmp_path / "net.safetensors", state, {})
    load_backbone(detector, tmp_path / "net.safetensors")
    found = detector.backbone.net.state_dict()  # type: ignore[union-attr]
    for key, value in found.items():  # type: ignore[union-attr,operator]
        torch.testing.assert_close(value, state[key].to(value.dtype))


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        (True, {}, "lacks weight 'conv_stem.weight'"),
        (False, {"surprise.weight": torch.zeros(1)}, "unknown weight 'surprise.weight'"),
        (False, {"conv_stem.weight": torch.zeros(1)}, "does not fit test_efficientnet"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    tmp_path: Path, drop: bool, add: dict[str, Tensor], message: str
) -> None:
    state = pretrained() | add
    if drop:
        state.pop("conv_stem.weight")
    save_tensors(tmp_path / "net.safetensors", state, {})
    with pytest.raises(CheckpointError, match=message):
        load_backbone(toy_detector(spread=False), tmp_path / "net.safetensors")


def test_rounding_to_half_changes_large_parameters_only() -> None:
    detector = toy_detector()
    before = {k: v.detach().clone() for k, v in detector.named_parameters()}
    round_to_half(detector, min_elements=500)
    large = {k for k, v in before.items() if v.numel() > 500}
    for key, value in detector.named_parameters():
        expected = before[key].half().float() if key in large else before[key]
        assert value.dtype == torch.float32 and torch.equal(value, expected)
    assert large and any(not torch.equal(before[k], dict(detector.named_parameters())[k]) for k in large)


def test_the_format_is_written_into_the_file(saved: Path) -> None:
    assert read_tensors(saved)[1]["format"] == FORMAT
