"""Compile our CUDA sources with NVRTC, once per source, architecture and compiler: the rest is a cache hit.

No compiler, header or environment variable of the machine takes part: the sources include only each other.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

SOURCES = Path(__file__).parent
# The kernels in each source, by the names that a module is asked for.
KERNELS: dict[str, tuple[str, ...]] = {
    "batched_nms": ("batched_nms",),
    "iou_guided_nms": ("iou_guided_nms",),
    "roi_align": tuple(
        f"roi_align_{layout}_{types}"
        for layout in ("vector", "strided")
        for types in ("f32_f32", "f16_f32", "f16_f16", "bf16_f32", "bf16_bf16")
    ),
    "soft_nms": ("soft_nms",),
}
# platform.h says why: a comparison with a threshold must fall the same way everywhere.
OPTIONS = ("--std=c++17", "--fmad=false", "--generate-line-info")
CACHE_VARIABLE = "HINDSIGHT_CACHE"

Kind = Literal["cubin", "ptx"]
_log = logging.getLogger("hindsight.kernels")


class KernelError(Exception):
    """A kernel could not be compiled, loaded or launched; the message holds what the tools said."""


class KernelsUnavailable(KernelError):
    """This machine lacks what kernels need: cuda-bindings, NVRTC, a driver, or a GPU new enough."""


def cache_folder() -> Path | None:
    """Where compiled kernels lie: $HINDSIGHT_CACHE/kernels, else the user's cache folder; None for a user
    without a home, as in a container run under a number.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen) / "kernels"
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        return None
    return Path(base) / "hindsight" / "kernels"


def source_of(name: str) -> tuple[str, dict[str, str]]:
    """The text of NAME.cu and of every header it may include. Raises KeyError for a name we lack."""
    if name not in KERNELS:
        raise KeyError(f"no kernel source {name!r}; there are {', '.join(KERNELS)}")
    headers = {path.name: path.read_text(encoding="utf-8") for path in sorted(SOURCES.glob("*.h"))}
    return (SOURCES / f"{name}.cu").read_text(encoding="utf-8"), headers


def target(capability: tuple[int, int]) -> tuple[int, Kind]:
    """Architecture and form to compile for a GPU of this compute capability.

    Machine code where NVRTC knows the GPU; PTX of the newest architecture before it, which the driver
    translates, where the GPU is newer than NVRTC. Raises KernelsUnavailable where it is too old.
    """
    wanted = capability[0] * 10 + capability[1]
    known = supported_architectures()
    if wanted in known:
        return wanted, "cubin"
    older = [architecture for architecture in known if architecture < wanted]
    if not older:
        raise KernelsUnavailable(
            f"this GPU has compute capability {capability[0]}.{capability[1]}; NVRTC compiles for "
            f"{known[0] // 10}.{known[0] % 10} and newer"
        )
    return older[-1], "ptx"


def compiled(name: str, architecture: int, kind: Kind = "cubin", folder: Path | None = None) -> bytes:
    """Machine code (`cubin`) or PTX, with the NUL that the driver wants, of NAME.cu for sm_`architecture`.

    From the cache in `folder` (default: `cache_folder()`) where it is there. Raises KernelError with the
    compiler's log, KernelsUnavailable without NVRTC.
    """
    source, headers = source_of(name)
    folder = cache_folder() if folder is None else folder
    if folder is None:
        _log.warning("compiled kernels are not kept: no home folder; name one in %s", CACHE_VARIABLE)
        return compile_with_log(name, architecture, kind)[0]
    options = _options(architecture, kind)
    parts = [*options, _nvrtc_version(), source, *(part for item in headers.items() for part in item)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
    path = folder / f"{name}-sm_{architecture}-{digest}.{kind}"
    cached = _read(path)
    if cached is not None:
        return cached
    image, _ = compile_with_log(name, architecture, kind)
    _write(path, image)
    return image


def compile_with_log(
    name: str, architecture: int, kind: Kind = "cubin", extra: tuple[str, ...] = ()
) -> tuple[bytes, str]:
    """Compile past the cache: the image and the compiler's log, of which `extra` options may ask for more."""
    nvrtc = _nvrtc()
    source, headers = source_of(name)
    program = _checked(
        nvrtc.nvrtcCreateProgram(
            source.encode(),
            f"{name}.cu".encode(),
            len(headers),
            [text.encode() for text in headers.values()],
            [header.encode() for header in headers],
        ),
        "nvrtcCreateProgram",
    )
    try:
        options = [option.encode() for option in (*_options(architecture, kind), *extra)]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        log = _text(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise KernelError(f"{name}.cu does not compile for sm_{architecture}: {_said(status)}\n{log}")
        if kind == "cubin":
            return _fetched(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN), log
        return _fetched(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX), log
    finally:
        nvrtc.nvrtcDestroyProgram(program)


@cache
def supported_architectures() -> tuple[int, ...]:
    """What the NVRTC here compiles for, ascending: 75 is sm_75. Raises KernelsUnavailable without NVRTC."""
    return tuple(sorted(_checked(_nvrtc().nvrtcGetSupportedArchs(), "nvrtcGetSupportedArchs")))


def _options(architecture: int, kind: Kind) -> tuple[str, ...]:
    form = "sm" if kind == "cubin" else "compute"
    return (*OPTIONS, f"--gpu-architecture={form}_{architecture}")


@cache
def _nvrtc() -> ModuleType:
    """cuda.bindings.nvrtc, with its library found."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise KernelsUnavailable(f"the package cuda-bindings is not installed ({error})") from error
    try:
        nvrtc.nvrtcVersion()  # the library is looked for at the first call
    except (RuntimeError, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise KernelsUnavailable(f"NVRTC, CUDA's runtime compiler, was not found ({first})") from error
    return nvrtc  # type: ignore[no-any-return]


@cache
def _nvrtc_version() -> str:
    major, minor = _checked(_nvrtc().nvrtcVersion(), "nvrtcVersion")
    return f"nvrtc {major}.{minor}"


def _checked(answer: tuple[Any, ...], call: str) -> Any:
    """What a call of NVRTC returned after its status. Raises KernelError."""
    status, *values = answer
    if int(status) != 0:
        raise KernelError(f"{call}: {_said(status)}")
    return values[0] if len(values) == 1 else values


def _said(status: Any) -> str:
    _, message = _nvrtc().nvrtcGetErrorString(status)
    return message.decode() if isinstance(message, bytes) else str(message)


def _fetched(program: Any, size_of: Any, fetch: Any) -> bytes:
    buffer = bytes(_checked(size_of(program), size_of.__name__))
    _checked(fetch(program, buffer), fetch.__name__)  # NVRTC writes into the bytes: the binding's convention
    return buffer


def _text(program: Any, size_of: Any, fetch: Any) -> str:
    return _fetched(program, size_of, fetch).rstrip(b"\0").decode(errors="replace").strip()


def _read(path: Path) -> bytes | None:
    try:
        image = path.read_bytes()
    except OSError:
        return None
    # a file that something else has cut short or emptied is compiled again
    whole = image.startswith(b"\x7fELF") if path.suffix == ".cubin" else image.endswith(b"\0")
    return image if whole else None


def _write(path: Path, image: bytes) -> None:
    """Whole or not at all: other processes may read or write the same file now."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            temporary = Path(file.name)
            file.write(image)
        temporary.replace(path)
    except OSError as error:
        _log.warning("compiled kernels are not kept, each process compiles them again: %s", error)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
