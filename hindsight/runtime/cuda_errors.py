"""Which errors only a new process gets over, and which a smaller batch does, however they reach us: by CUDA's
name or number, or as words.

The driver's bindings give a name (CUDA_ERROR_ILLEGAL_ADDRESS), ONNX Runtime a number (CUDA failure 700),
torch an exception of its own with the number since 2.8, before that the runtime's words in a RuntimeError.
"""

from __future__ import annotations

import re

from hindsight.errors import DeviceLost, OutOfMemory, RuntimeFailure

__all__ = ["failure_kind"]

# number: (name after CUDA_ERROR_, what CUDA's runtime says). After one of these every later call of the
# process gets the same answer.
_LOST = {
    214: ("ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"),
    220: ("NVLINK_UNCORRECTABLE", "uncorrectable NVLink error detected during the execution"),
    226: ("CONTAINED", "Invalid access of peer GPU memory over nvlink or a hardware error"),
    700: ("ILLEGAL_ADDRESS", "an illegal memory access was encountered"),
    702: ("LAUNCH_TIMEOUT", "the launch timed out and was terminated"),
    709: ("CONTEXT_IS_DESTROYED", "context is destroyed"),
    710: ("ASSERT", "device-side assert triggered"),
    714: ("HARDWARE_STACK_ERROR", "hardware stack error"),
    715: ("ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"),
    716: ("MISALIGNED_ADDRESS", "misaligned address"),
    717: ("INVALID_ADDRESS_SPACE", "operation not supported on global/shared address space"),
    718: ("INVALID_PC", "invalid program counter"),
    719: ("LAUNCH_FAILED", "unspecified launch failure"),
    721: ("TENSOR_MEMORY_LEAK", "tensor memory not completely freed"),
    810: ("MPS_CLIENT_TERMINATED", "the MPS client has been terminated by the server"),
    911: ("EXTERNAL_DEVICE", "an async error has occured in external entity outside of CUDA"),
    999: ("UNKNOWN", "unknown error"),
}
_NO_MEMORY = 2
_NAMES = {name: number for number, (name, _) in _LOST.items()} | {"OUT_OF_MEMORY": _NO_MEMORY}
_WORDS = {words.lower(): number for number, (_, words) in _LOST.items()} | {"out of memory": _NO_MEMORY}
# How the libraries above CUDA (TensorRT in its log), and the allocators of torch and ONNX Runtime on the CPU
# too, say that an allocation failed.
_NO_ROOM = re.compile(
    r"ALLOC_FAILED|out[ _]?of[ _]?memory|DefaultCPUAllocator: |failed to allocate memory"
    r"|available memory of \d+ is smaller than|bad allocation|bad_alloc",
    re.IGNORECASE,
)


def failure_kind(said: str, code: int | None = None) -> type[RuntimeFailure]:
    """The error to raise for what CUDA, or a library above it, said. code: CUDA's number, where it is known.

    A failure that tells nothing of its cause (CUBLAS_STATUS_EXECUTION_FAILED) is a RuntimeFailure: if the GPU
    is lost, the next call says so in plain words.
    """
    number = _number_in(said) if code is None else code
    if number in _LOST:
        return DeviceLost
    return OutOfMemory if number == _NO_MEMORY else RuntimeFailure


def _number_in(said: str) -> int | None:
    if found := re.search(r"CUDA failure (\d+)", said):
        return int(found[1])
    if found := re.search(r"CUDA_ERROR_(\w+)", said):
        return _NAMES.get(found[1])
    if _NO_ROOM.search(said):
        return _NO_MEMORY
    if found := re.search(r"CUDA (?:driver )?error: ([^\n]+)", said):
        words = found[1].lower()
        return next((number for start, number in _WORDS.items() if words.startswith(start)), None)
    return None
