"""Our operators on CUDA kernels: tensors in, tensors out. What they mean: model/ops/*.py.

No host synchronisation: shapes alone decide the launches, thresholds are read on the device. Results and
workspace come from torch's allocator, so that a CUDA graph captures a call once the kernel is loaded.

`queue`: where to launch; the tensors are on its device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.kernels.driver import Queue, launch
from model.kernels.params import (
    MAX_LEVELS,
    SIDE_PER_STRIDE,
    VECTOR_BYTES,
    NmsLaunch,
    NmsParams,
    RoiAlignParams,
    SoftNmsParams,
    nms_launch,
    roi_align_launch,
    soft_nms_launch,
)
from model.ops.soft_nms import check_method

_SHORT = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def roi_align(
    features: Sequence[Tensor],
    rois: Tensor,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int,
    aligned: bool,
    queue: Queue,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """`multilevel_roi_align`. Maps of float32, float16 or bfloat16 are read as they lie, channels-last ones
    fastest; others are converted first. `out_dtype`: float32 or the maps' own type, which None takes.

    Raises ValueError for more than 8 levels, or a map of more than 2**31 - 1 elements an image.
    """
    if not 1 <= len(features) <= MAX_LEVELS:
        raise ValueError(f"expected 1 to {MAX_LEVELS} feature levels, got {len(features)}")
    images, boxes = rois.shape[:2]
    channels = features[0].shape[1]
    _check_shape("rois", rois, (images, boxes, 4), rois.device)
    for level, feature in enumerate(features):
        _check_shape(f"level {level}", feature, (images, channels, *feature.shape[2:]), rois.device)
    dtype = features[0].dtype
    if dtype not in _SHORT or any(feature.dtype != dtype for feature in features):
        features, dtype = [feature.float() for feature in features], torch.float32
    out_dtype = out_dtype or dtype
    if out_dtype not in (torch.float32, dtype):
        raise ValueError(f"expected float32 or {dtype} for the result, got {out_dtype}")
    shape = (images * boxes, channels, output_size, output_size)
    output = torch.empty(shape, dtype=out_dtype, device=rois.device)
    if output.numel() == 0:
        return output
    if any(feature.numel() == 0 for feature in features):
        return output.zero_()

    rois = _vector_rows(rois)
    params = RoiAlignParams(
        rois=rois.data_ptr(),
        output=output.data_ptr(),
        levels=len(features),
        rois_per_image=boxes,
        channels=channels,
        output_size=output_size,
        sampling_ratio=max(sampling_ratio, 0),
        aligned=int(aligned),
    )
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        _describe_level(params, level, feature, stride)

    sizes = (images, boxes, channels, output_size, dtype.itemsize, out_dtype.itemsize)
    vector = all(_is_vector_map(feature) for feature in features)
    chosen = roi_align_launch(*sizes, vector=True) if vector else None
    layout = "strided" if chosen is None else "vector"
    chosen = chosen or roi_align_launch(*sizes, vector=False)
    assert chosen is not None  # the strided kernel takes everything
    params.channels_per_block = chosen.channels_per_block
    launch("roi_align", f"roi_align_{layout}_{_SHORT[dtype]}_{_SHORT[out_dtype]}", params, chosen, queue)
    return output


def batched_nms(boxes: Tensor, scores: Tensor, threshold: Tensor, queue: Queue) -> Tensor:
    """`batched_nms`: keep mask bool [G, C, N]."""
    _check_lists(boxes, scores)
    keep = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    if keep.numel() == 0:
        return keep
    lists = _Lists(boxes, scores, threshold, nms_launch)
    params = NmsParams(**lists.fields(), keep=keep.data_ptr())
    launch("batched_nms", "batched_nms", params, lists.shape, queue)
    return keep


def iou_guided_nms(
    boxes: Tensor, class_scores: Tensor, ious: Tensor, threshold: Tensor, queue: Queue
) -> tuple[Tensor, Tensor]:
    """`iou_guided_nms`: keep mask bool and scores, both [G, C, N]."""
    _check_lists(boxes, class_scores)
    _check_shape("ious", ious, tuple(boxes.shape[:2]), boxes.device)
    keep = torch.empty(class_scores.shape, dtype=torch.bool, device=class_scores.device)
    kept_scores = torch.empty(class_scores.shape, dtype=torch.float32, device=class_scores.device)
    if keep.numel() == 0:
        return keep, kept_scores.to(class_scores.dtype)
    lists, ious = _Lists(boxes, class_scores, threshold, nms_launch), _plain(ious)
    params = NmsParams(
        **lists.fields(), ious=ious.data_ptr(), keep=keep.data_ptr(), kept_scores=kept_scores.data_ptr()
    )
    launch("iou_guided_nms", "iou_guided_nms", params, lists.shape, queue)
    return keep, kept_scores.to(class_scores.dtype)


def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    threshold: Tensor,
    method: str,
    sigma: float,
    min_score: float,
    steps: int,
    queue: Queue,
) -> Tensor:
    """`soft_nms`: decayed scores [G, C, N]. Raises ValueError for an unknown method."""
    check_method(method)
    _check_lists(boxes, scores)
    decayed = torch.empty(scores.shape, dtype=torch.float32, device=scores.device)
    if decayed.numel() == 0:
        return decayed.to(scores.dtype)
    lists = _Lists(boxes, scores, threshold, soft_nms_launch)
    params = SoftNmsParams(
        **lists.fields(),
        decayed=decayed.data_ptr(),
        steps=steps,
        gaussian=int(method == "gaussian"),
        sigma=sigma,
        min_score=min_score,
    )
    launch("soft_nms", "soft_nms", params, lists.shape, queue)
    return decayed.to(scores.dtype)


class _Lists:
    """What suppression reads, as its kernels read it, with the workspace and the shape of the launch.

    Keep it until the kernel is launched: the addresses in `fields` are those of its tensors.
    """

    def __init__(
        self, boxes: Tensor, scores: Tensor, threshold: Tensor, launch_of: Callable[[int, int], NmsLaunch]
    ) -> None:
        groups, self.classes, self.count = scores.shape
        self.boxes, self.scores = _vector_rows(boxes), _plain(scores)
        self.threshold = _plain(threshold.to(boxes.device))
        self.shape = launch_of(groups * self.classes, self.count)
        self.spill = torch.empty(
            self.shape.blocks * self.shape.spill_keys, dtype=torch.int64, device=scores.device
        )

    def fields(self) -> dict[str, int]:
        """What NmsParams and SoftNmsParams have in common."""
        return {
            "boxes": self.boxes.data_ptr(),
            "scores": self.scores.data_ptr(),
            "threshold": self.threshold.data_ptr(),
            "spill": self.spill.data_ptr(),
            "classes": self.classes,
            "count": self.count,
            "shared_keys": self.shape.shared_keys,
            "spill_keys": self.shape.spill_keys,
        }


def _describe_level(params: RoiAlignParams, level: int, feature: Tensor, stride: int) -> None:
    image_stride, channel_stride, row_stride, column_stride = feature.stride()
    reach = sum((size - 1) * step for size, step in zip(feature.shape[1:], feature.stride()[1:], strict=True))
    if reach >= 2**31:
        raise ValueError(f"level {level} has more elements an image than the kernel can count: {reach + 1}")
    params.features[level] = feature.data_ptr()
    params.image_strides[level] = image_stride
    params.channel_strides[level] = channel_stride
    params.row_strides[level] = row_stride
    params.column_strides[level] = column_stride
    params.heights[level], params.widths[level] = feature.shape[2:]
    params.scales[level] = 1.0 / stride
    params.least_sides[level] = SIDE_PER_STRIDE * stride


def _is_vector_map(feature: Tensor) -> bool:
    """Channels side by side, and every pixel of it at a multiple of 16 bytes."""
    image_stride, channel_stride, row_stride, column_stride = feature.stride()
    steps = (image_stride, row_stride, column_stride)
    aligned = all(step * feature.element_size() % VECTOR_BYTES == 0 for step in steps)
    return channel_stride == 1 and aligned and feature.data_ptr() % VECTOR_BYTES == 0


def _check_lists(boxes: Tensor, scores: Tensor) -> None:
    groups, _, count = scores.shape
    _check_shape("boxes", boxes, (groups, count, 4), scores.device)


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """The kernels trust shapes and addresses: what does not fit would be read past its end."""
    if tuple(tensor.shape) != shape or tensor.device != device:
        raise ValueError(
            f"expected {name} {list(shape)} on {device}, got {list(tensor.shape)} on {tensor.device}"
        )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous()


def _vector_rows(boxes: Tensor) -> Tensor:
    """Boxes as the kernels load them, 16 bytes at once. A view may begin anywhere: then it is copied."""
    boxes = _plain(boxes)
    return boxes if boxes.data_ptr() % VECTOR_BYTES == 0 else boxes.clone()
