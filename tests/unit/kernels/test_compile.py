"""NVRTC, which torch's CUDA wheel brings, compiles every source for every GPU we name; no GPU is needed."""

from __future__ import annotations

import logging
import re
import shutil
from pathlib import Path

import pytest

from model.kernels import compile as kernels
from model.kernels.compile import KERNELS, SOURCES, KernelError, KernelsUnavailable

ARCHITECTURES = [75, 80, 86, 89, 90, 120]
VERBOSE = ("--ptxas-options=-v",)
# bytes; RoI-Align's kernels spill a few values on sm_90 (strided) and sm_120 (both)
MOST_SPILLED = {"roi_align": 16}
SMALL = "soft_nms"  # compiles fastest
# A block of 1024 threads has 64 registers a thread; 72 let four blocks of RoI-Align share an SM.
MOST_REGISTERS = {"batched_nms": 64, "iou_guided_nms": 64, "soft_nms": 64, "roi_align": 72}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_is_in_the_machine_code_and_spills_nothing_that_counts(
    name: str, architecture: int
) -> None:
    image, log = kernels.compile_with_log(name, architecture, "cubin", VERBOSE)
    assert image.startswith(b"\x7fELF") and "warning" not in log
    for kernel in KERNELS[name]:
        assert f".text.{kernel}\0".encode() in image
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", log)]
    spilled = [int(count) for count in re.findall(r"(\d+) bytes spill stores", log)]
    assert len(registers) == len(spilled) == len(KERNELS[name]), log
    assert max(registers) <= MOST_REGISTERS[name], log
    assert max(spilled) <= MOST_SPILLED.get(name, 0), log


@pytest.mark.parametrize("name", KERNELS)
def test_ptx_holds_every_kernel_and_ends_as_the_driver_wants(name: str) -> None:
    ptx, _ = kernels.compile_with_log(name, 80, "ptx")
    assert ptx.endswith(b"\0") and b".target sm_80" in ptx
    for kernel in KERNELS[name]:
        assert re.search(rf"\.entry {kernel}\(", ptx.decode())


def test_the_second_time_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kernels.compiled(SMALL, 90, folder=tmp_path)
    monkeypatch.setattr(kernels, "compile_with_log", lambda *args: pytest.fail("compiled again"))
    assert kernels.compiled(SMALL, 90, folder=tmp_path) == first
    assert [path.suffix for path in tmp_path.iterdir()] == [".cubin"], "no temporary file stays"


def fake_compiler(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    calls: list[tuple[object, ...]] = []

    def compile_with_log(*args: object) -> tuple[bytes, str]:
        calls.append(args)
        return b"\x7fELF" + str(args).encode(), ""

    monkeypatch.setattr(kernels, "compile_with_log", compile_with_log)
    return calls


def test_sources_headers_architectures_and_forms_have_files_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_compiler(monkeypatch)
    cache, copy = tmp_path / "cache", tmp_path / "sources"
    shutil.copytree(SOURCES, copy)
    kernels.compiled("soft_nms", 90, folder=cache)
    kernels.compiled("batched_nms", 90, folder=cache)
    kernels.compiled("soft_nms", 89, folder=cache)
    kernels.compiled("soft_nms", 90, "ptx", folder=cache)
    monkeypatch.setattr(kernels, "SOURCES", copy)
    kernels.compiled("soft_nms", 90, folder=cache)
    assert len(calls) == 4
    with (copy / "box_math.h").open("a") as header:
        header.write("// changed\n")
    kernels.compiled("soft_nms", 90, folder=cache)
    assert len(calls) == 5


@pytest.mark.parametrize("damage", [b"", b"half a file"])
def test_a_damaged_file_is_compiled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    calls = fake_compiler(monkeypatch)
    first = kernels.compiled(SMALL, 90, folder=tmp_path)
    next(tmp_path.iterdir()).write_bytes(damage)
    assert kernels.compiled(SMALL, 90, folder=tmp_path) == first and len(calls) == 2
    assert next(tmp_path.iterdir()).read_bytes() == first


def test_a_cache_that_cannot_be_written_is_said_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_compiler(monkeypatch)
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):
        assert kernels.compiled(SMALL, 90, folder=tmp_path / "file")
    assert "are not kept" in caplog.text


def test_a_user_without_a_home_compiles_each_time_and_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("HINDSIGHT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with caplog.at_level(logging.WARNING):
        assert kernels.compiled(SMALL, 90).startswith(b"\x7fELF")
    assert "HINDSIGHT_CACHE" in caplog.text


def test_the_cache_lies_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HINDSIGHT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kernels.cache_folder() == tmp_path / "hindsight" / "kernels"
    monkeypatch.setenv("HINDSIGHT_CACHE", str(tmp_path / "own"))
    assert kernels.cache_folder() == tmp_path / "own" / "kernels"


def test_what_the_compiler_says_is_in_the_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernels, "source_of", lambda name: ("this is no CUDA;", {}))
    with pytest.raises(
        KernelError, match=r"(?s)soft_nms.cu does not compile for sm_90.*soft_nms.cu\(1\): error"
    ):
        kernels.compiled(SMALL, 90, folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_source_is_named_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="no kernel source 'mean_shift'; there are batched_nms, "):
        kernels.compiled("mean_shift", 90)


def test_gpus_newer_than_the_compiler_get_ptx_and_older_ones_a_reason() -> None:
    newest = kernels.supported_architectures()[-1]
    assert kernels.target((9, 0)) == (90, "cubin")
    assert kernels.target((99, 0)) == (newest, "ptx")
    with pytest.raises(KernelsUnavailable, match=r"compute capability 5\.2; NVRTC compiles for "):
        kernels.target((5, 2))


def test_without_the_package_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cuda.bindings", None)
    kernels._nvrtc.cache_clear()
    try:
        with pytest.raises(KernelsUnavailable, match="cuda-bindings is not installed"):
            kernels.compile_with_log(SMALL, 90)
    finally:
        kernels._nvrtc.cache_clear()
