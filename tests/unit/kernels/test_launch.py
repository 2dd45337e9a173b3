"""params.py says what params.h and geometry.h say; every launch is one that a GPU takes."""

from __future__ import annotations

import ctypes
from itertools import product

from model.kernels import params

COUNTS = [1, 2, 31, 64, 255, 256, 257, 512, 513, 1000, 2048, 4095, 4096, 4097, 20_480, 100_000]
LISTS = [1, 40, 256, 257, 640, 1_000_000]


def test_parameters_and_shared_memory_are_as_large_as_in_the_headers(host_library: ctypes.CDLL) -> None:
    structures = [params.RoiAlignParams, params.NmsParams, params.SoftNmsParams]
    for which, structure in enumerate(structures):
        assert host_library.sizes_of_params(which) == ctypes.sizeof(structure)
    roi_shared, tile, soft_shared = (host_library.sizes_of_shared(which) for which in range(3))
    assert roi_shared == params.ROI_SHARED
    assert soft_shared <= tile == params.NMS_SHARED


def test_suppression_is_launched_alike_from_both_languages(host_library: ctypes.CDLL) -> None:
    found = (ctypes.c_longlong * 5)()
    launches = [params.nms_launch, params.soft_nms_launch]
    for lists, count, soft in product(LISTS, COUNTS, [0, 1]):
        host_library.nms_launch(ctypes.c_longlong(lists), count, soft, found)
        ours = launches[soft](lists, count)
        expected = [ours.blocks, ours.threads, ours.shared_bytes, ours.spill_keys, ours.shared_keys]
        assert list(found) == expected
        assert ours.threads in {128, 256, 512, 1024} and ours.threads >= 64
        assert ours.shared_bytes <= 48 * 1024
        assert max(ours.shared_keys, ours.spill_keys) >= count


def test_roi_align_is_launched_alike_from_both_languages(host_library: ctypes.CDLL) -> None:
    found = (ctypes.c_longlong * 4)()
    cases = product(
        [4, 8, 20, 64, 72, 256, 1024], [1, 2, 7, 14, 28, 56], [(4, 4), (2, 4), (2, 2)], [False, True]
    )
    for channels, side, (in_bytes, out_bytes), vector in cases:
        sizes = (1000, channels, side, in_bytes, out_bytes)
        host_library.roi_align_launch(ctypes.c_longlong(8), *sizes, int(vector), found)
        ours = params.roi_align_launch(8, *sizes, vector=vector)
        if ours is None:
            assert vector and found[3] == 0
            continue
        assert list(found) == [ours.blocks, ours.threads, ours.shared_bytes, ours.channels_per_block]
        assert ours.shared_bytes <= 48 * 1024
        if vector:
            lanes = ours.channels_per_block * in_bytes // 16
            assert ours.threads % lanes == 0, "threads would idle"
