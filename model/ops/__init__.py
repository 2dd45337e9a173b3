"""The operators the detectors are made of: fixed shapes, no host synchronisation in their contract."""

from model.ops.deform_conv import deform_conv2d, deform_conv2d_reference
from model.ops.deform_roi_pool import deform_pool_ragged, deform_roi_pool, deform_roi_pool_reference
from model.ops.iou_guided_nms import iou_guided_nms, iou_guided_nms_reference
from model.ops.nms import batched_nms, batched_nms_reference
from model.ops.roi_align import (
    multilevel_roi_align,
    multilevel_roi_align_reference,
    pool_ragged,
    roi_levels,
)
from model.ops.soft_nms import soft_nms, soft_nms_reference

# isort: split
from model.ops import cuda as cuda  # their CUDA implementations

__all__ = [
    "batched_nms",
    "batched_nms_reference",
    "deform_conv2d",
    "deform_conv2d_reference",
    "deform_pool_ragged",
    "deform_roi_pool",
    "deform_roi_pool_reference",
    "iou_guided_nms",
    "iou_guided_nms_reference",
    "multilevel_roi_align",
    "multilevel_roi_align_reference",
    "pool_ragged",
    "roi_levels",
    "soft_nms",
    "soft_nms_reference",
]
