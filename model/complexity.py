"""How large a detector is: parameters, and multiply-adds for one image. Shapes alone, nothing is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import model.ops  # noqa: F401  (registers torch.ops.hindsight)
from model.config import DetectorConfig
from model.detector import TwoStageDetector

PAPERS_HW = (800, 1333)  # DRCNN Table VIII
PAPERS_PROPOSALS = 1000


def parameters(config: DetectorConfig) -> int:
    """`trained_parameters` of a detector that need not be built."""
    return trained_parameters(_shapes(config))


def trained_parameters(detector: nn.Module) -> int:
    """The papers leave out what is frozen, stem and first stage."""
    return sum(p.numel() for p in detector.parameters() if p.requires_grad)


def multiply_adds(
    config: DetectorConfig, image_hw: Sequence[int] = PAPERS_HW, proposals: int = PAPERS_PROPOSALS
) -> int:
    """Of convolutions and fully connected layers, at inference on one image with so many proposals.

    Norms, activations, interpolation, RoI-Align and NMS are not counted: together they are below .5 %.
    """
    rpn = replace(config.rpn, post_nms_test=proposals)
    detector = _shapes(replace(config, rpn=rpn)).eval()
    counter = FlopCounterMode(
        display=False, custom_mapping={torch.ops.hindsight.deform_conv2d: _deform_flops}
    )
    with torch.device("meta"), torch.no_grad(), counter:
        images = torch.zeros(1, *image_hw, 3, dtype=torch.uint8)
        one = torch.ones(1)
        detector(images, torch.tensor([image_hw]), one, one, one, one)
    return int(counter.get_total_flops()) // 2  # FLOPs count a multiply-add twice


def _shapes(config: DetectorConfig) -> TwoStageDetector:
    with torch.device("meta"):  # initialising a hundred million weights would take seconds
        return TwoStageDetector(config)


def _deform_flops(x: Any, offset: Any, mask: Any, weight: Any, *_: Any, out_shape: Any, **__: Any) -> int:
    """A convolution's; the counter hands over shapes, not tensors."""
    count: int = 2 * prod(out_shape) * prod(weight[1:])
    return count
