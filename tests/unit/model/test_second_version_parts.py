"""The layers that torchvision's second versions have and its first ones lack, in training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from model.config import HeadConfig
from model.detector import TwoStageDetector
from model.heads.layers import ConvFC
from tests.unit.model.toys import full_size, toy_config, toy_images, toy_targets

HEAD = HeadConfig(kind="shared", stages=1, width=16, batch_per_image=32, convs=2)


def test_every_part_learns_and_the_pyramids_statistics_stay() -> None:
    config = toy_config(head=HEAD)
    detector = TwoStageDetector(
        replace(
            config,
            backbone=replace(config.backbone, fpn_norm=True),
            rpn=replace(config.rpn, conv_depth=3),
        )
    ).train()
    statistics = {k: v.clone() for k, v in detector.fpn.state_dict().items() if "running" in k}
    assert len(statistics) == 2 * 2 * 3 and len(detector.rpn.deeper) == 2
    images = toy_images(2)
    terms = detector.losses(images, full_size(images), toy_targets())
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert not any(name.endswith("0.bias") for name, _ in detector.fpn.named_parameters())
    for key, value in statistics.items():
        assert torch.equal(detector.fpn.state_dict()[key], value)


def test_no_box_at_all_keeps_the_convolutions_in_the_graph() -> None:
    trunk = ConvFC(16 * 49, 2, 8)
    hidden = trunk(torch.zeros(0, 16, 7, 7))
    assert hidden.shape == (0, 8)
    hidden.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in trunk.parameters())


def test_every_batch_norm_takes_the_epsilon() -> None:
    config = toy_config()
    detector = TwoStageDetector(replace(config, backbone=replace(config.backbone, norm_eps=0.5)))
    norms = [m for m in detector.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and all(norm.eps == 0.5 for norm in norms)


@pytest.mark.parametrize("changes", [{"rpn": {"conv_depth": 0}}, {"head": {"convs": -1}}])
def test_depths_out_of_range_are_refused(changes: dict[str, dict[str, int]]) -> None:
    config = toy_config()
    sections = {name: replace(getattr(config, name), **values) for name, values in changes.items()}
    with pytest.raises(ValueError, match=r"rpn\.conv_depth must be at least 1 and head\.convs at least 0"):
        replace(config, **sections)  # type: ignore[arg-type]
