"""mmdetection 2's and 3's Faster, Mask and Cascade R-CNN (ResNet or ResNeXt, DCN, FPN, two FC layers a head).

Background is the last class there as here. What else differs from torchvision's conventions is an option of
ours: anchors are not rounded to whole pixels and stand at whole strides; RoI-Align is aligned and samples as
often as a bin is large; a box shrinks in one step no more than it may grow; cascaded classifiers average
their logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from model.checkpoint import CheckpointError
from model.config import BackboneConfig, DetectorConfig, HeadConfig, MaskConfig, PoolingConfig, RpnConfig
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

_SHARED = (
    (r"backbone\.((?:conv1|bn1|layer[1-4])\..+)", r"backbone.\1"),
    (r"neck\.lateral_convs\.(\d)\.conv\.(.+)", r"fpn.lateral.\1.\2"),
    (r"neck\.fpn_convs\.(\d)\.conv\.(.+)", r"fpn.output.\1.\2"),
    (r"rpn_head\.rpn_conv\.(weight|bias)", r"rpn.conv.\1"),
    (r"rpn_head\.rpn_cls\.(.+)", r"rpn.objectness.\1"),
    (r"rpn_head\.rpn_reg\.(.+)", r"rpn.deltas.\1"),
)
_FASTER = (
    *_SHARED,
    (r"roi_head\.bbox_head\.shared_fcs\.0\.(.+)", r"head.trunk.fc1.\1"),
    (r"roi_head\.bbox_head\.shared_fcs\.1\.(.+)", r"head.trunk.fc2.\1"),
    (r"roi_head\.bbox_head\.fc_cls\.(.+)", r"head.logits.\1"),
    (r"roi_head\.bbox_head\.fc_reg\.(.+)", r"head.deltas.\1"),
    (r"roi_head\.mask_head\.convs\.(\d)\.conv\.(.+)", r"mask.convs.\1.\2"),
    (r"roi_head\.mask_head\.upsample\.(.+)", r"mask.upsample.\1"),
    (r"roi_head\.mask_head\.conv_logits\.(.+)", r"mask.logits.\1"),
)
_CASCADE = (
    *_SHARED,
    (r"roi_head\.bbox_head\.(\d)\.shared_fcs\.0\.(.+)", r"head.stages.\1.trunk.fc1.\2"),
    (r"roi_head\.bbox_head\.(\d)\.shared_fcs\.1\.(.+)", r"head.stages.\1.trunk.fc2.\2"),
    (r"roi_head\.bbox_head\.(\d)\.fc_cls\.(.+)", r"head.stages.\1.logits.\2"),
    (r"roi_head\.bbox_head\.(\d)\.fc_reg\.(.+)", r"head.stages.\1.deltas.\2"),
)
_RATIOS = 3
# Their "> 0" for the sides of a proposal, as our "at least"
_NOT_EMPTY = 1e-9
# RGB; theirs is of pixels in 0..255 and BGR, with a standard deviation of 1
_CAFFE_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)


def recognises(state: Mapping[str, Tensor]) -> bool:
    """By the parts' names; version 1's are among them, to be refused by name."""
    return any(key.startswith("rpn_head.") for key in state) and any(key.startswith("neck.") for key in state)


def convert(state: Mapping[str, Tensor], conventions: Conventions) -> Conversion:
    """Raises CheckpointError naming what does not fit."""
    if any(key.startswith("bbox_head.") for key in state):
        raise CheckpointError(
            "this is an mmdetection 1 detector, whose boxes are measured otherwise: upgrade it there"
        )
    if any(key.startswith("roi_head.semantic_head.") for key in state):
        raise CheckpointError(
            "this is an HTC detector whose boxes depend on its semantic branch: it can't be brought in"
        )
    stages = count(state, "roi_head.bbox_head.%d.fc_cls.weight")
    if stages or conventions.boxes_only:
        state = without_masks(state, ("roi_head.mask_head.",), conventions.boxes_only)
    converted, strangers = rename(state, _CASCADE if stages else _FASTER)
    config = _config(state, conventions, stages)
    _take_means_in(converted, conventions)
    if conventions.caffe:
        stem = "backbone.conv1.weight"
        converted[stem] = converted[stem].flip(1)  # it reads BGR, our images are RGB
    kind = "Cascade" if stages else "Faster" if config.mask is None else "Mask"
    layout = f"mmdetection {kind} R-CNN"
    return assemble(config, converted, strangers, layout)


def _config(state: Mapping[str, Tensor], conventions: Conventions, stages: int) -> DetectorConfig:
    per_cell_anchors(shape_of(state, "rpn_head.rpn_cls.weight")[0], _RATIOS)
    first = "roi_head.bbox_head.0." if stages else "roi_head.bbox_head."
    outputs, width = shape_of(state, f"{first}fc_cls.weight")
    class_specific = shape_of(state, f"{first}fc_reg.weight")[0] != 4
    if stages and class_specific:
        raise CheckpointError("a cascade with class-specific regression can't be brought in")
    backbone = BackboneConfig(
        resnet_name(state, "backbone."),
        fpn_channels=shape_of(state, "neck.lateral_convs.0.conv.weight")[0],
        norm_eps=conventions.norm_eps,
        deformable=_deformable(state),
    )
    if conventions.caffe:
        unit = 1 / 255
        backbone = replace(backbone, stride_in_1x1=True, mean=_CAFFE_MEAN, std=(unit, unit, unit))
    return DetectorConfig(
        outputs - 1,
        backbone,
        RpnConfig(anchors_rounded=False, shrink_limited=True, min_side=_NOT_EMPTY),
        PoolingConfig(aligned=True, sampling_ratio=0),
        HeadConfig(
            kind="cascade" if stages else "shared",
            width=width,
            stages=stages or 1,
            share_trunk=bool(stages),
            class_specific_first=class_specific,
            stage_weights=(1.0, 0.5, 0.25),
            average="logits",
            shrink_limited=True,
            stds=conventions.delta_stds,
        ),
        localization=None,
        mask=_masks(state),
        min_box_side=0.0,
    )


def _masks(state: Mapping[str, Tensor]) -> MaskConfig | None:
    if not any(key.startswith("roi_head.mask_head.") for key in state):
        return None
    return MaskConfig(
        convs=count(state, "roi_head.mask_head.convs.%d.conv.weight"),
        channels=shape_of(state, "roi_head.mask_head.conv_logits.weight")[1],
        pooling=PoolingConfig(output_size=14, aligned=True, sampling_ratio=0),
    )


def _deformable(state: Mapping[str, Tensor]) -> str:
    """DCN's version, told by whether the offsets (2 a tap) come with a weight for each of the 9 taps."""
    rows = {value.shape[0] for key, value in state.items() if key.endswith(".conv_offset.bias")}
    if len(rows) > 1 or not rows <= {18, 27}:
        raise CheckpointError(
            f"deformable convolutions with {sorted(rows)} offsets: expected 18 or 27 in all"
        )
    return {18: "v1", 27: "v2"}[rows.pop()] if rows else "none"


def _take_means_in(converted: dict[str, Tensor], conventions: Conventions) -> None:
    """deltas * std + mean = (deltas + mean / std) * std: the means go into the last layers' biases."""
    if not any(conventions.delta_means):
        return
    for key in [key for key in converted if key.startswith("head.") and key.endswith("deltas.bias")]:
        stage = int(key.split(".")[2]) if key.startswith("head.stages.") else 0
        means, stds = torch.tensor(conventions.delta_means), torch.tensor(conventions.delta_stds[stage])
        bias = converted[key]
        converted[key] = bias + (means / stds).repeat(len(bias) // 4)
