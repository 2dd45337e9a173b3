"""What a kernel is handed and how it is launched: params.h and geometry.h once more, for Python.

A test compares both with the headers. Pointers are addresses of device memory.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

MAX_LEVELS = 8
# sqrt(area) of a box, in strides of a level, from which FPN's rule gives it to that level (224 / 16)
SIDE_PER_STRIDE = 14.0

ROI_SHARED, NMS_SHARED = 4096, 3616  # bytes of state beside the staged results and the keys
SHARED_KEYS = 4096
STAGE_BYTES = 26 * 1024
SLICE = 64
VECTOR_BYTES = 16
MAX_BLOCKS = 2**31 - 1

_PerLevelPointer = ctypes.c_void_p * MAX_LEVELS
_PerLevelLong = ctypes.c_longlong * MAX_LEVELS
_PerLevelInt = ctypes.c_int * MAX_LEVELS
_PerLevelFloat = ctypes.c_float * MAX_LEVELS


class RoiAlignParams(ctypes.Structure):
    """params.h, RoiAlignParams."""

    _fields_ = (
        ("features", _PerLevelPointer),
        ("rois", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("image_strides", _PerLevelLong),
        ("channel_strides", _PerLevelInt),
        ("row_strides", _PerLevelInt),
        ("column_strides", _PerLevelInt),
        ("heights", _PerLevelInt),
        ("widths", _PerLevelInt),
        ("scales", _PerLevelFloat),
        ("least_sides", _PerLevelFloat),
        ("levels", ctypes.c_int),
        ("rois_per_image", ctypes.c_int),
        ("channels", ctypes.c_int),
        ("output_size", ctypes.c_int),
        ("sampling_ratio", ctypes.c_int),
        ("aligned", ctypes.c_int),
        ("channels_per_block", ctypes.c_int),
    )


class NmsParams(ctypes.Structure):
    """params.h, NmsParams."""

    _fields_ = (
        ("boxes", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
        ("ious", ctypes.c_void_p),
        ("threshold", ctypes.c_void_p),
        ("keep", ctypes.c_void_p),
        ("kept_scores", ctypes.c_void_p),
        ("spill", ctypes.c_void_p),
        ("classes", ctypes.c_int),
        ("count", ctypes.c_int),
        ("shared_keys", ctypes.c_int),
        ("spill_keys", ctypes.c_int),
    )


class SoftNmsParams(ctypes.Structure):
    """params.h, SoftNmsParams."""

    _fields_ = (
        ("boxes", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
        ("threshold", ctypes.c_void_p),
        ("decayed", ctypes.c_void_p),
        ("spill", ctypes.c_void_p),
        ("classes", ctypes.c_int),
        ("count", ctypes.c_int),
        ("shared_keys", ctypes.c_int),
        ("spill_keys", ctypes.c_int),
        ("steps", ctypes.c_int),
        ("gaussian", ctypes.c_int),
        ("sigma", ctypes.c_float),
        ("min_score", ctypes.c_float),
    )


Params = RoiAlignParams | NmsParams | SoftNmsParams


@dataclass(frozen=True)
class Launch:
    """Blocks (all along x), threads a block, bytes of dynamic shared memory."""

    blocks: int
    threads: int
    shared_bytes: int


@dataclass(frozen=True)
class NmsLaunch(Launch):
    """Keys of a list in shared memory, and in the workspace [lists, spill_keys] of 8 bytes each."""

    shared_keys: int
    spill_keys: int


@dataclass(frozen=True)
class RoiAlignLaunch(Launch):
    """How many channels a block pools."""

    channels_per_block: int


def nms_launch(lists: int, count: int) -> NmsLaunch:
    """geometry.h, hindsight_nms_launch: `lists` of `count` boxes, neither of them zero."""
    padded = 1 << max(count - 1, 0).bit_length()
    shared_keys = min(padded, SHARED_KEYS)
    return NmsLaunch(
        blocks=lists,
        threads=1024 if lists <= 256 and count > 512 else 256,
        shared_bytes=NMS_SHARED + 8 * shared_keys,
        shared_keys=shared_keys,
        spill_keys=padded if count > SHARED_KEYS else 0,
    )


def soft_nms_launch(lists: int, count: int) -> NmsLaunch:
    """geometry.h, hindsight_soft_nms_launch."""
    wanted = (1 << max(count - 1, 0).bit_length()) // 4
    threads = 128 if lists > 256 else min(max(wanted, 128), 1024)
    return replace(nms_launch(lists, count), threads=threads)


def roi_align_launch(
    images: int, boxes: int, channels: int, side: int, in_bytes: int, out_bytes: int, *, vector: bool
) -> RoiAlignLaunch | None:
    """geometry.h, hindsight_roi_align_launch; None where the vector kernel cannot take it."""
    slice_ = SLICE
    if vector:
        least = VECTOR_BYTES // in_bytes
        bytes_per_channel = side * side * out_bytes
        while slice_ > least and (slice_ // 2 >= channels or slice_ * bytes_per_channel > STAGE_BYTES):
            slice_ //= 2
        if channels % least or slice_ * bytes_per_channel > STAGE_BYTES:
            return None
    return RoiAlignLaunch(
        blocks=images * boxes * -(-channels // slice_),
        threads=224 if vector else 256,
        shared_bytes=ROI_SHARED + (slice_ * side * side * out_bytes if vector else 0),
        channels_per_block=slice_,
    )
