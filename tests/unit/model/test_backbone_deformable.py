"""Deformable convolutions in C3..C5: where they sit, what they start as, what their channels mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.backbone import build_backbone
from model.checkpoint import CheckpointError, load_backbone, load_checkpoint, save_checkpoint, save_tensors
from model.config import BackboneConfig
from model.deformable import DeformConv2d
from model.resnet import ResNetFeatures
from tests.unit.model import toy_resnet
from tests.unit.model.toys import toy_detector

FIELDS = {"v1": 18, "v2": 27}  # (dy, dx) of nine taps; and their masks


@pytest.fixture(autouse=True)
def _toy_resnet(monkeypatch: pytest.MonkeyPatch) -> None:
    toy_resnet.add_toy_resnet(monkeypatch)


def toy(deformable: str = "none", **changes: object) -> ResNetFeatures:
    torch.manual_seed(0)
    config = BackboneConfig(toy_resnet.NAME, deformable=deformable, **changes)  # type: ignore[arg-type]
    backbone = build_backbone(config).eval()
    assert isinstance(backbone, ResNetFeatures)
    return backbone


def layers(kind: str, **changes: int) -> tuple[DeformConv2d, nn.Conv2d]:
    """A fresh deformable layer and the plain convolution of the same weights."""
    torch.manual_seed(1)
    geometry = {"stride": 1, "padding": 1, "groups": 2, "bias": True} | changes
    plain = nn.Conv2d(4, 6, 3, **geometry)  # type: ignore[arg-type]
    stride = (geometry["stride"],) * 2
    layer = DeformConv2d(4, 6, (3, 3), stride, (1, 1), groups=2, modulated=kind == "v2")
    layer.weight, layer.bias = plain.weight, plain.bias
    return layer, plain


@pytest.mark.parametrize("kind", ["v1", "v2"])
@torch.no_grad()
def test_names_and_shapes_are_mmcvs(kind: str) -> None:
    plain, deformable = toy().state_dict(), toy(kind).state_dict()
    assert set(plain) < set(deformable)
    assert all(plain[key].shape == deformable[key].shape for key in plain)
    added = {key: tuple(deformable[key].shape) for key in set(deformable) - set(plain)}
    expected: dict[str, tuple[int, ...]] = {}
    for stage, channels in ((2, 16), (3, 32), (4, 64)):
        name = f"layer{stage}.0.conv2.conv_offset"
        expected |= {f"{name}.weight": (FIELDS[kind], channels, 3, 3), f"{name}.bias": (FIELDS[kind],)}
    assert added == expected
    assert not any(deformable[key].any() for key in added)


@pytest.mark.parametrize("name", ["resnet50", "resnext101_32x4d"])
def test_every_bottleneck_of_c3_to_c5_is_deformable(name: str) -> None:
    with torch.device("meta"):
        backbone = build_backbone(BackboneConfig(name, deformable="v2"))
    for stage in (1, 2, 3, 4):
        for block in getattr(backbone, f"layer{stage}"):
            assert isinstance(block.conv2, DeformConv2d) == (stage > 1)
            assert type(block.conv1) is type(block.conv3) is nn.Conv2d


@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_a_fresh_v1_layer_is_the_plain_convolution_and_v2_half_of_it(stride: int) -> None:
    x = torch.randn(2, 4, 7, 6)
    for kind, share in (("v1", 1.0), ("v2", 0.5)):
        layer, plain = layers(kind, stride=stride, bias=False)
        layer.bias = None
        torch.testing.assert_close(layer(x), plain(x) * share, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_fresh_v1_backbone_gives_the_maps_of_the_plain_one() -> None:
    plain, deformable = toy(), toy("v1")
    missing, unexpected = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert all("conv_offset" in key for key in missing) and not unexpected
    images = torch.randn(1, 3, 64, 96)
    for found, expected in zip(deformable(images), plain(images), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["v1", "v2"])
@torch.no_grad()
def test_even_channels_move_down_and_odd_ones_right(kind: str) -> None:
    layer, plain = layers(kind)
    assert layer.conv_offset.bias is not None and layer.bias is not None
    layer.conv_offset.bias[0:18:2] = 2.0
    layer.conv_offset.bias[1:18:2] = -1.0
    layer.conv_offset.bias[18:] = 30.0  # v2: every tap counts in full
    x = torch.randn(1, 4, 9, 9)
    inside = plain(x)[:, :, 3:8, 1:6]  # two rows below and a column to the left of:
    torch.testing.assert_close(layer(x)[:, :, 1:6, 2:7], inside, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_last_nine_channels_of_v2_weigh_the_taps_row_by_row() -> None:
    layer, plain = layers("v2")
    assert layer.conv_offset.bias is not None
    layer.conv_offset.bias[18:] = -30.0
    layer.conv_offset.bias[18 + 5] = 30.0  # of row 1, column 2
    x = torch.randn(1, 4, 5, 5)
    kept = torch.zeros(3, 3)
    kept[1, 2] = 1.0
    plain.weight = nn.Parameter(plain.weight * kept)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("early", [False, True])
def test_offsets_stride_where_their_convolution_does(early: bool) -> None:
    backbone = toy("v1", stride_in_1x1=early)
    for stage in (backbone.layer2, backbone.layer3, backbone.layer4):
        conv = stage[0].conv2
        assert isinstance(conv, DeformConv2d)
        assert conv.stride == conv.conv_offset.stride == ((1, 1) if early else (2, 2))
    assert [m.shape[-1] for m in backbone(torch.zeros(1, 3, 64, 64))] == [16, 8, 4, 2]


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_offsets_learn_from_zero_on_unless_their_stage_is_frozen(kind: str) -> None:
    backbone = toy(kind, frozen_levels=3)
    sum(m.square().mean() for m in backbone(torch.randn(1, 3, 64, 64))).backward()  # type: ignore[union-attr]
    gradients = {name: p.grad for name, p in backbone.named_parameters() if "conv_offset" in name}
    for name, gradient in gradients.items():
        if name.startswith("layer2"):
            assert gradient is None
        else:
            assert gradient is not None and gradient.isfinite().all() and gradient.any()


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_it_trains_under_autocast(kind: str) -> None:
    layer, plain = layers(kind)
    x = torch.randn(1, 4, 6, 6, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        half = plain(x)  # a map in half precision, as the layer before it would leave
        out = layer(half[:, :4])
    assert half.dtype == out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is not None and parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all() and parameter.grad.any()


@pytest.mark.parametrize("kind", ["v1", "v2"])
def test_a_deformable_detector_survives_its_checkpoint(kind: str, tmp_path: Path) -> None:
    detector = toy_detector(backbone=config_of(kind))
    toy_resnet.stir(detector.backbone)
    save_checkpoint(tmp_path / "dcn.safetensors", detector, {})
    loaded, _ = load_checkpoint(tmp_path / "dcn.safetensors")
    assert loaded.config.backbone.deformable == kind
    for key, value in detector.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def config_of(kind: str) -> BackboneConfig:
    return BackboneConfig(toy_resnet.NAME, min_level=3, fpn_channels=16, frozen_levels=0, deformable=kind)


def classifier_weights() -> dict[str, Tensor]:
    return toy().state_dict() | {"fc.weight": torch.zeros(1)}


def test_a_classifiers_weights_leave_the_offsets_alone(tmp_path: Path) -> None:
    save_tensors(tmp_path / "net.safetensors", classifier_weights(), {})
    detector = toy_detector(backbone=config_of("v2"))
    load_backbone(detector, tmp_path / "net.safetensors")
    state = detector.backbone.state_dict()
    assert torch.equal(state["layer4.0.conv2.weight"], classifier_weights()["layer4.0.conv2.weight"])
    assert not any(value.any() for key, value in state.items() if "conv_offset" in key)


def test_weights_with_some_of_the_offsets_are_refused(tmp_path: Path) -> None:
    state = toy("v2").state_dict()
    save_tensors(tmp_path / "whole.safetensors", state, {})
    load_backbone(toy_detector(backbone=config_of("v2")), tmp_path / "whole.safetensors")
    del state["layer3.0.conv2.conv_offset.bias"]
    save_tensors(tmp_path / "some.safetensors", state, {})
    with pytest.raises(CheckpointError, match=r"lacks weight 'layer3\.0\.conv2\.conv_offset\.bias'"):
        load_backbone(toy_detector(backbone=config_of("v2")), tmp_path / "some.safetensors")
    with pytest.raises(CheckpointError, match=r"has the unknown weight 'layer2\.0\.conv2\.conv_offset"):
        load_backbone(toy_detector(backbone=config_of("none")), tmp_path / "whole.safetensors")


def test_other_kinds_and_other_backbones_are_refused() -> None:
    with pytest.raises(ValueError, match='deformable must be "none", "v1" or "v2", got \'v3\''):
        BackboneConfig(deformable="v3")
    with pytest.raises(
        ValueError, match=r"need a backbone of bottlenecks \(resnet50, .*got test_efficientnet"
    ):
        build_backbone(BackboneConfig("test_efficientnet", min_level=3, deformable="v1"))
    with pytest.raises(ValueError, match="did you mean 'resnet50'"):
        build_backbone(BackboneConfig("resnet5O", deformable="v1"))
