"""Backbones and the pyramid: the right maps, what is frozen, and names that are no backbone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from model.backbone import build_backbone
from model.config import BackboneConfig
from model.fpn import FeaturePyramid


def toy(**changes: object) -> BackboneConfig:
    return BackboneConfig("test_efficientnet", **({"min_level": 3, "frozen_levels": 0} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("levels", "strides"), [((3, 5), [8, 16, 32]), ((2, 4), [4, 8, 16]), ((4, 4), [16])])
def test_maps_have_the_strides_asked_for(levels: tuple[int, int], strides: list[int]) -> None:
    backbone = build_backbone(toy(min_level=levels[0], max_level=levels[1])).eval()
    maps = backbone(torch.zeros(1, 3, 64, 96))
    assert [m.shape[1:] for m in maps] == [
        (channels, 64 // s, 96 // s) for channels, s in zip(backbone.channels, strides, strict=True)
    ]


def trainable(frozen_levels: int) -> set[str]:
    backbone = build_backbone(toy(frozen_levels=frozen_levels))
    return {name for name, p in backbone.named_parameters() if p.requires_grad}


def test_frozen_levels_freeze_from_the_stem_up() -> None:
    sets = [trainable(levels) for levels in (0, 1, 2, 3, 5)]
    assert all(later < earlier for earlier, later in pairwise(sets))
    everything = {name for name, _ in build_backbone(toy()).named_parameters()}
    assert sets[0] == everything and not sets[-1]
    assert not any("conv_stem" in name for name in sets[1])


def test_a_frozen_level_gets_no_gradient_and_the_next_one_does() -> None:
    backbone = build_backbone(toy(frozen_levels=3))
    maps = backbone(torch.randn(1, 3, 64, 64))
    assert [m.requires_grad for m in maps] == [False, True, True]


def test_resnet_freezes_stem_and_first_stage_by_default() -> None:
    backbone = build_backbone(BackboneConfig("resnet50"))
    frozen = {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    learning = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"} and learning == {"layer2", "layer3", "layer4"}
    assert list(backbone.channels) == [256, 512, 1024, 2048]


def test_the_stride_can_sit_in_the_first_convolution() -> None:
    for early in (False, True):
        block = build_backbone(BackboneConfig("resnet50", stride_in_1x1=early)).layer3[0]  # type: ignore[union-attr,index]
        assert (block.conv1.stride, block.conv2.stride) == (((2, 2), (1, 1)) if early else ((1, 1), (2, 2)))


@pytest.mark.parametrize("name", ["resnet50", "test_efficientnet"])
def test_batch_statistics_never_train(name: str) -> None:
    backbone = build_backbone(BackboneConfig(name, min_level=3)).train()
    norms = [m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms) and backbone.training


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5O", "unknown backbone 'resnet5O': did you mean 'resnet50'"),
        ("resnext101_32x4", "did you mean 'resnext101_32x4d'"),
        ("tf_efficientnet_lite", "did you mean 'tf_efficientnet_lite"),
        ("###", "expected resnet50, resnet101, resnext101_32x4d, resnext101_64x4d or a timm model"),
        ("test_efficientnet.no_such_weights", "unknown backbone 'test_efficientnet.no_such_weights'"),
        ("hf-hub:someone/something", "unknown backbone"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        build_backbone(BackboneConfig(name))
    assert message in str(caught.value)


def test_a_name_never_reaches_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("timm.create_model", fail)
    with pytest.raises(ValueError, match="unknown backbone"):
        build_backbone(BackboneConfig("hf-hub:timm/resnet50.a1_in1k"))


def test_a_missing_level_is_named() -> None:
    with pytest.raises(ValueError, match="no feature map of stride 64"):
        build_backbone(toy(max_level=6))


def test_the_pyramid_adds_the_level_above_and_pools_one_more() -> None:
    pyramid = FeaturePyramid([2, 3], 4)
    fine, coarse = torch.randn(1, 2, 5, 7), torch.randn(1, 3, 3, 4)
    maps = pyramid([fine, coarse])
    assert [m.shape for m in maps] == [(1, 4, 5, 7), (1, 4, 3, 4), (1, 4, 2, 2)]
    top = pyramid.lateral[1](coarse)
    rows, columns = torch.arange(5) * 3 // 5, torch.arange(7) * 4 // 7  # the nearest coarse position
    merged = pyramid.lateral[0](fine) + top[:, :, rows][:, :, :, columns]
    torch.testing.assert_close(maps[0], pyramid.output[0](merged))
    torch.testing.assert_close(maps[1], pyramid.output[1](top))
    assert torch.equal(maps[2], maps[1][:, :, ::2, ::2])
