"""Which errors of CUDA end a worker, in every form in which they come."""

from __future__ import annotations

import pytest
from cuda.bindings import driver

from hindsight.errors import DeviceLost, OutOfMemory, RuntimeFailure
from hindsight.runtime.cuda_errors import _LOST, failure_kind

TORCHS_ADVICE = "\nCUDA kernel errors might be asynchronously reported at some other API call.\nunknown error"


@pytest.mark.parametrize(("number", "names"), _LOST.items())
def test_what_stays_with_the_process(number: int, names: tuple[str, str]) -> None:
    name, words = names
    said = [
        f"launching roi_align: the CUDA driver says CUDA_ERROR_{name}",
        f"CUDA failure {number}: {words} ; GPU=0",
        f"CUDA error: {words}{TORCHS_ADVICE}",
        f"CUDA driver error: {words}",
    ]
    assert [failure_kind(text) for text in said] == [DeviceLost] * 4
    assert failure_kind("", number) is DeviceLost


@pytest.mark.parametrize(
    "said",
    [
        f"CUDA error: invalid argument{TORCHS_ADVICE}",
        f"CUDA error: operation not permitted when stream is capturing{TORCHS_ADVICE}",
        f"CUDA error: no kernel image is available for execution on the device{TORCHS_ADVICE}",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`",
        "the size of tensor a (3) must match: misaligned address",
        "",
    ],
)
def test_what_the_next_batch_may_get_over(said: str) -> None:
    assert failure_kind(said) is RuntimeFailure


@pytest.mark.parametrize(
    "said",
    [
        f"CUDA error: out of memory{TORCHS_ADVICE}",
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "CUDA failure 2: out of memory ; GPU=0",
        "the CUDA driver says CUDA_ERROR_OUT_OF_MEMORY",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[defaultAllocator.cpp::allocate::58] Error Code 1: Cuda Runtime (out of memory)",
        "OutOfMemory (Requested size was 9 bytes.)",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 1000 bytes.",
        "Available memory of 5 is smaller than requested bytes of 9",
        "Non-zero status code returned while running Conv node. std::bad_alloc",
    ],
)
def test_what_a_smaller_batch_may_get_over(said: str) -> None:
    assert failure_kind(said) is OutOfMemory


def test_a_number_stands_before_words() -> None:
    assert failure_kind("CUDA error: an illegal memory access was encountered", 1) is RuntimeFailure


def test_names_and_numbers_are_cudas() -> None:
    for number, (name, _) in _LOST.items():
        found = getattr(driver.CUresult, f"CUDA_ERROR_{name}", None)
        if found is not None:  # newer than these bindings
            assert int(found) == number
