"""Ready a detector for tracing: a copy without batch norms, its padding the same for every image size."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.detector import TwoStageDetector


class StaticSameConv2d(nn.Module):
    """A convolution with TensorFlow's "same" padding for inputs whose sides its stride divides.

    timm computes that padding from the input's size, which nests one symbolic expression per layer into the
    traced graph and makes tracing take forever. Our images' sides are multiples of 32, so it is a constant.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        vertical, horizontal = (
            max((kernel - 1) * dilation + 1 - stride, 0)
            for kernel, stride, dilation in zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)
        )
        self.padding = (
            horizontal // 2,
            horizontal - horizontal // 2,
            vertical // 2,
            vertical - vertical // 2,
        )

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        padded = F.pad(x, self.padding)
        return F.conv2d(padded, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def prepared_copy(detector: TwoStageDetector) -> TwoStageDetector:
    """A copy of `detector` for export: the same function of images whose sides are multiples of 32.

    Folding the batch norms here rather than leaving it to the runtime gives the weights their final values
    before they are rounded and stored.
    """
    from timm.layers.conv2d_same import Conv2dSame

    prepared = copy.deepcopy(detector).cpu().eval().requires_grad_(False)
    _fold(prepared.backbone, _convolutions_before_batch_norms(prepared.backbone))
    _fold(prepared, _pairs_beyond_backbone(prepared))
    for module in list(prepared.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Conv2dSame):
                setattr(module, name, StaticSameConv2d(child))
    return prepared


def _fold(parent: nn.Module, pairs: Sequence[tuple[nn.Conv2d, nn.BatchNorm2d]]) -> None:
    """Merge each batch norm into its convolution; `parent` holds them all."""
    for conv, norm in pairs:
        fused = fuse_conv_bn_eval(conv, norm)
        conv.weight, conv.bias = fused.weight, fused.bias
    folded = {id(norm) for _, norm in pairs}
    for module in list(parent.modules()):
        for name, child in list(module.named_children()):
            if id(child) in folded:
                # timm's batch norms bring their activation along
                setattr(module, name, getattr(child, "act", nn.Identity()))


def _pairs_beyond_backbone(detector: TwoStageDetector) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pyramid and heads have theirs in modules of exactly two: a convolution and its batch norm."""
    pairs = []
    for name, module in detector.named_modules():
        match list(module.children()):
            case [nn.Conv2d() as conv, nn.BatchNorm2d() as norm] if not name.startswith("backbone."):
                pairs.append((conv, norm))
    return pairs


@torch.no_grad()
def _convolutions_before_batch_norms(backbone: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Found by running the backbone: a batch norm belongs to the convolution that made its very input."""
    made_by: list[tuple[Tensor, nn.Conv2d]] = []  # holds the tensors, so that no identity is used twice
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if isinstance(module, nn.Conv2d):
            made_by.append((output, module))
        elif isinstance(module, nn.BatchNorm2d):
            pairs.extend((conv, module) for tensor, conv in made_by if tensor is inputs[0])

    handles = [module.register_forward_hook(after) for module in backbone.modules()]
    try:
        backbone(torch.zeros(1, 3, 64, 64))
    finally:
        for handle in handles:
            handle.remove()
    return pairs
