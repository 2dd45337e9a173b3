"""Other libraries' checkpoints in our names. Weights are rearranged, never recomputed: the detections are the
same."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from model.checkpoint import CheckpointError
from model.detector import TwoStageDetector

# torchvision's name -> ours, for whole modules. Batch norms' counters exist here only and are never read.
_TORCHVISION_PREFIXES = {
    "backbone.body.": "backbone.",
    "backbone.fpn.inner_blocks.": "fpn.lateral.",
    "backbone.fpn.layer_blocks.": "fpn.output.",
    "rpn.head.conv.0.0.": "rpn.conv.",
    "rpn.head.conv.": "rpn.conv.",  # checkpoints written before torchvision 0.13
    "rpn.head.cls_logits.": "rpn.objectness.",
    "rpn.head.bbox_pred.": "rpn.deltas.",
    "roi_heads.box_head.fc6.": "head.trunk.fc1.",
    "roi_heads.box_head.fc7.": "head.trunk.fc2.",
    "roi_heads.box_predictor.cls_score.": "head.logits.",
    "roi_heads.box_predictor.bbox_pred.": "head.deltas.",
    # before torchvision 0.13 the mask head's layers had names, counted from 1
    **{f"roi_heads.mask_head.mask_fcn{i + 1}.": f"mask.convs.{i}." for i in range(4)},
    "roi_heads.mask_head.": "mask.convs.",
    "roi_heads.mask_predictor.conv5_mask.": "mask.upsample.",
    "roi_heads.mask_predictor.mask_fcn_logits.": "mask.logits.",
}


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict of torchvision's `fasterrcnn_resnet50_fpn` or `maskrcnn_resnet50_fpn` -> ours for
    `zoo.faster_rcnn` or `zoo.mask_rcnn`.

    Differences: their background is class 0, ours the last; their regressor and their masks also have
    (unused) rows for background; pyramid and mask head wrap each convolution in a block of one. Raises
    CheckpointError naming a key of another layout.
    """
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        name = _rename(key)
        if name.startswith("head.logits."):
            converted[name] = torch.cat([value[1:], value[:1]])
        elif name.startswith("head.deltas."):
            converted[name] = value[4:]
        elif name.startswith("mask.logits."):
            converted[name] = value[1:]
        else:
            converted[name] = value
    return converted


def load_torchvision(detector: TwoStageDetector, state: Mapping[str, Tensor]) -> None:
    """Load torchvision's weights into a `zoo.faster_rcnn` or `zoo.mask_rcnn` detector of the same classes.

    Raises CheckpointError naming what does not fit.
    """
    try:
        missing, unexpected = detector.load_state_dict(from_torchvision(state), strict=False)
    except RuntimeError as error:
        raise CheckpointError(f"these weights do not fit the detector: {error}") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise CheckpointError(f"torchvision weights: missing {missing[:3]}, not understood {unexpected[:3]}")


def _rename(key: str) -> str:
    for theirs, ours in _TORCHVISION_PREFIXES.items():
        if key.startswith(theirs):
            rest = key.removeprefix(theirs)
            if ours.startswith("fpn.") or ours == "mask.convs.":  # "0.0.weight" or, in older ones, "0.weight"
                index, _, tail = rest.partition(".")
                rest = f"{index}.{tail.removeprefix('0.')}"
            return ours + rest
    raise CheckpointError(f"not a torchvision Faster or Mask R-CNN checkpoint: unknown weight {key!r}")
