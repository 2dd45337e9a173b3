"""Backbones by name: the ResNets of `resnet.py`, and any timm model with a feature pyramid."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from model.config import BackboneConfig
from model.resnet import RESNETS, FrozenStatistics, ResNetFeatures


def _unknown(name: str) -> str:
    known = [*RESNETS, *timm.list_models()]
    near = difflib.get_close_matches(name.partition(".")[0], known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"expected {', '.join(RESNETS)} or a timm model"
    return f"unknown backbone {name!r}: {hint}"


class TimmFeatures(FrozenStatistics):
    """Maps of stride 2**min_level .. 2**max_level of a timm model."""

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        # asked before building: timm would look a name like "hf-hub:owner/model" up on the network
        if not timm.is_model(config.name):
            raise ValueError(_unknown(config.name))
        if config.deformable != "none":
            raise ValueError(
                f"deformable convolutions need a backbone of bottlenecks ({', '.join(RESNETS)}), "
                f'got {config.name}: set backbone.deformable = "none"'
            )
        try:
            probe: Any = timm.create_model(config.name, features_only=True, pretrained=False)
        except RuntimeError as error:
            raise ValueError(f"{_unknown(config.name)} ({error})") from error
        reductions: list[int] = probe.feature_info.reduction()
        wanted = [2**level for level in range(config.min_level, config.max_level + 1)]
        missing = [r for r in wanted if r not in reductions]
        if missing:
            raise ValueError(f"{config.name} has no feature map of stride {missing[0]}: it has {reductions}")
        indices = [reductions.index(r) for r in wanted]
        net: Any = timm.create_model(config.name, features_only=True, pretrained=False, out_indices=indices)
        self.net: nn.Module = net
        self.channels: Sequence[int] = net.feature_info.channels()
        self._freeze(config, indices, reductions)

    def _freeze(self, config: BackboneConfig, indices: list[int], reductions: list[int]) -> None:
        """Freeze what the map of stride 2**frozen_levels depends on: what its gradient reaches."""
        if config.frozen_levels < 1:
            return
        stride = 2 ** min(config.frozen_levels, config.max_level)
        if stride not in reductions:
            raise ValueError(
                f"{config.name} has no map of stride {stride} (2**frozen_levels): it has {reductions}"
            )
        index = reductions.index(stride)
        shallow = timm.create_model(config.name, features_only=True, pretrained=False, out_indices=[index])
        shallow.eval()
        shallow(torch.zeros(1, 3, 64, 64))[-1].sum().backward()
        names = {name for name, p in shallow.named_parameters() if p.grad is not None}
        for name, parameter in self.net.named_parameters():
            if name in names:
                parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.net(images))


def build_backbone(config: BackboneConfig) -> ResNetFeatures | TimmFeatures:
    """Random weights; `checkpoint.load_backbone` brings ImageNet's. ValueError for an unknown name."""
    backbone = ResNetFeatures(config) if config.name in RESNETS else TimmFeatures(config)
    if config.norm_eps is not None:
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = config.norm_eps
    return backbone
