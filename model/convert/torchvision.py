"""torchvision's Faster and Mask R-CNN with ResNet and FPN, and the boxes of their second versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from model.checkpoint import CheckpointError
from model.config import DetectorConfig, MaskConfig
from model.convert.layout import (
    Conventions,
    Conversion,
    assemble,
    count,
    per_cell_anchors,
    rename,
    resnet_name,
    shape_of,
    without_masks,
)
from model.detector import TwoStageDetector
from model.zoo import faster_rcnn

# Batch norms' counters exist in some versions only and are never read.
_SHARED = (
    (r"backbone\.body\.(.+)", r"backbone.\1"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.conv.\1"),  # written before torchvision 0.13
    (r"rpn\.head\.conv\.0\.0\.(.+)", r"rpn.conv.\1"),
    (r"rpn\.head\.cls_logits\.(.+)", r"rpn.objectness.\1"),
    (r"rpn\.head\.bbox_pred\.(.+)", r"rpn.deltas.\1"),
    (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"head.logits.\1"),
    (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"head.deltas.\1"),
)
_V1 = (
    *_SHARED,
    # "0.0.weight" or, in older checkpoints, "0.weight"
    (r"backbone\.fpn\.inner_blocks\.(\d)\.(?:0\.)?(weight|bias)", r"fpn.lateral.\1.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d)\.(?:0\.)?(weight|bias)", r"fpn.output.\1.\2"),
    (r"roi_heads\.box_head\.fc6\.(.+)", r"head.trunk.fc1.\1"),
    (r"roi_heads\.box_head\.fc7\.(.+)", r"head.trunk.fc2.\1"),
    # "0.0.weight" or, before torchvision 0.13, names counted from 1
    (r"roi_heads\.mask_head\.(\d)\.0\.(weight|bias)", r"mask.convs.\1.\2"),
    *((rf"roi_heads\.mask_head\.mask_fcn{i + 1}\.(.+)", rf"mask.convs.{i}.\1") for i in range(4)),
    (r"roi_heads\.mask_predictor\.conv5_mask\.(.+)", r"mask.upsample.\1"),
    (r"roi_heads\.mask_predictor\.mask_fcn_logits\.(.+)", r"mask.logits.\1"),
)
_V2 = (
    *_SHARED,
    (r"backbone\.fpn\.inner_blocks\.(\d\.[01]\..+)", r"fpn.lateral.\1"),
    (r"backbone\.fpn\.layer_blocks\.(\d\.[01]\..+)", r"fpn.output.\1"),
    (r"rpn\.head\.conv\.1\.0\.(.+)", r"rpn.deeper.0.\1"),
    (r"roi_heads\.box_head\.([0-3])\.0\.(.+)", r"head.trunk.convs.\1.conv.\2"),
    (r"roi_heads\.box_head\.([0-3])\.1\.(.+)", r"head.trunk.convs.\1.norm.\2"),
    (r"roi_heads\.box_head\.5\.(.+)", r"head.trunk.fc.\1"),  # 4 flattens
)
_MASKS = ("roi_heads.mask_head.", "roi_heads.mask_predictor.")
_MASK_LOGITS = "roi_heads.mask_predictor.mask_fcn_logits.weight"
_NORM_IN_FPN = "backbone.fpn.inner_blocks.0.1.weight"


def recognises(state: Mapping[str, Tensor]) -> bool:
    """By the backbone's wrapping in "body" beside an "fpn"."""
    return any(key.startswith("backbone.body.") for key in state) and any(
        key.startswith("backbone.fpn.") for key in state
    )


def convert(state: Mapping[str, Tensor], conventions: Conventions) -> Conversion:
    """Raises CheckpointError naming what does not fit."""
    if conventions.caffe:
        raise CheckpointError("--style caffe is mmdetection's: torchvision's detectors have one style")
    v2 = _NORM_IN_FPN in state
    if v2 or conventions.boxes_only:  # the second version's mask head has norms, ours has none
        state = without_masks(state, _MASKS, conventions.boxes_only)
    converted, strangers = _converted(state)
    return assemble(
        _config(state, conventions, v2), converted, strangers, f"torchvision {'v2' if v2 else 'v1'}"
    )


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of torchvision's Faster R-CNN (v1 or v2) or Mask R-CNN (v1) -> ours.

    Differences: their background is class 0, ours the last; their regressor and their masks also have
    (unused) rows for background; their pyramid wraps each convolution in a block. Raises CheckpointError
    naming a key of another layout.
    """
    converted, strangers = _converted(state)
    if strangers:
        raise CheckpointError(
            f"not a torchvision Faster or Mask R-CNN checkpoint: unknown weight {strangers[0]!r}"
        )
    return converted


def load_torchvision(detector: TwoStageDetector, state: Mapping[str, Tensor]) -> None:
    """Load torchvision's weights into a detector built for them: `zoo.faster_rcnn`, `zoo.mask_rcnn`.

    Raises CheckpointError naming what does not fit.
    """
    try:
        missing, unexpected = detector.load_state_dict(from_torchvision(state), strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"these weights do not fit the detector: {error}") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CheckpointError(f"torchvision weights: missing {missing[:3]}, not understood {unexpected[:3]}")


def _converted(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    converted, strangers = rename(state, _V2 if _NORM_IN_FPN in state else _V1)
    for key, value in converted.items():
        if key.startswith("head.logits."):
            converted[key] = torch.cat([value[1:], value[:1]])
        elif key.startswith("head.deltas."):
            converted[key] = value[4:]
        elif key.startswith("mask.logits."):
            converted[key] = value[1:]
    return converted, strangers


def _config(state: Mapping[str, Tensor], conventions: Conventions, v2: bool) -> DetectorConfig:
    per_cell_anchors(shape_of(state, "rpn.head.cls_logits.weight")[0], 3)
    outputs, width = shape_of(state, "roi_heads.box_predictor.cls_score.weight")
    config = faster_rcnn(outputs - 1, resnet_name(state, "backbone.body."))
    if _MASK_LOGITS in state:
        config = replace(config, mask=MaskConfig(channels=shape_of(state, _MASK_LOGITS)[1]))
    channels = shape_of(state, "rpn.head.cls_logits.weight")[1]
    backbone = replace(config.backbone, fpn_channels=channels, norm_eps=conventions.norm_eps, fpn_norm=v2)
    if not v2:
        return replace(config, backbone=backbone, head=replace(config.head, width=width))
    return replace(
        config,
        backbone=backbone,
        rpn=replace(config.rpn, conv_depth=max(count(state, "rpn.head.conv.%d.0.weight"), 1)),
        head=replace(config.head, width=width, convs=count(state, "roi_heads.box_head.%d.0.weight")),
    )
