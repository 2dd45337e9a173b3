"""Our CUDA operators against torchvision's at detector sizes, on one GPU.

    python -m benchmarks.operators                  # writes benchmarks/results/operators-GPU.json
    python -m benchmarks.operators --compile-only   # each kernel's registers; needs no GPU

Times are gpu_clock.py's. Bytes are those that must move whatever the kernel: inputs once, outputs once. The
share of peak is of the bandwidth that a large copy reaches in the same run. torchvision gets its boxes per
level for nothing (`roi_align` per level + `cat`, whose rows it leaves unordered); what its whole
MultiScaleRoIAlign takes is beside it. Its NMS gets one call an image, as its detectors do.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path
from typing import Annotated, Any

import torch
import torchvision
import typer
from torch import Tensor

from benchmarks.gpu_clock import Clock, Timed, copy_bandwidth, figure_of, line_of
from model.kernels.compile import KERNELS, compile_with_log
from model.ops import batched_nms, iou_guided_nms, multilevel_roi_align, roi_levels, soft_nms
from training.machine import commit, processor

RESULTS = Path(__file__).resolve().parent / "results"
IMAGE_HW, STRIDES, CHANNELS = (800, 1344), (4, 8, 16, 32), 256
IMAGES, BOXES, CLASSES = 8, 1000, 80
ARCHITECTURES = (75, 80, 86, 89, 90, 120)
GOALS = {"roi_align": 2.0, "batched_nms": 3.0}  # times faster than torchvision


def main(
    repeats: Annotated[int, typer.Option(min=5, help="Timed calls of each.")] = 50,
    compile_only: Annotated[
        bool, typer.Option(help="Only what the compiler reports, for every GPU.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The JSON file; named for the GPU if left out.")] = None,
) -> None:
    """Time the operators and write the figures."""
    if compile_only:
        sys.stdout.write(json.dumps(compiler_report(ARCHITECTURES), indent=2) + "\n")
        return
    if not torch.cuda.is_available():
        sys.stderr.write("no GPU that torch can use; --compile-only needs none\n")
        raise SystemExit(2)
    clock = Clock(repeats)
    bandwidth = copy_bandwidth(clock)
    figures: list[Timed] = []
    result = header(repeats, bandwidth) | {"figures": figures}
    slug = re.sub(r"[^a-z0-9]+", "-", result["hardware"]["gpu"].lower().removeprefix("nvidia ")).strip("-")
    path = out or RESULTS / f"operators-{slug}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    for figure in chain(nms_figures(clock), roi_align_figures(clock), other_nms_figures(clock)):
        figures.append(with_bandwidth(figure, bandwidth))
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")  # time may run out
        sys.stdout.write(line_of(figures[-1]) + "\n")
    major, minor = torch.cuda.get_device_capability()
    result["compiler"] = compiler_report([major * 10 + minor])
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(f"{path}\n")


def header(repeats: int, bandwidth: float) -> dict[str, Any]:
    """Of the result file: what was measured on, and with what."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": os.environ.get("COMMIT") or commit(),
        "hardware": {
            "gpu": torch.cuda.get_device_name(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "cpu": processor(),
        },
        "versions": {
            "python": platform.python_version(),
            "cuda": torch.version.cuda,
            **{name: version(name) for name in ("torch", "torchvision", "cuda-bindings")},
        },
        "repeats": repeats,
        "copy_gigabytes_per_second": round(bandwidth / 1e9, 1),
        "goals": GOALS,
    }


def with_bandwidth(figure: Timed, bandwidth: float) -> Timed:
    """`figure` with the bytes a second that ours moves, and their share of `bandwidth`."""
    moved = figure["bytes"] / (figure["ours"]["milliseconds"] / 1e3)
    return figure | {
        "gigabytes_per_second": round(moved / 1e9, 1),
        "share_of_copy_bandwidth": round(moved / bandwidth, 3),
    }


# RoI-Align


def some_boxes(images: int, count: int) -> Tensor:
    """Proposals as an RPN leaves them: every size from 16 px to the image, within it."""
    generator = torch.Generator("cuda").manual_seed(0)
    hw = torch.tensor(IMAGE_HW, device="cuda", dtype=torch.float32)
    centre = torch.rand(images, count, 2, generator=generator, device="cuda") * hw.flip(0)
    side = 16 * torch.exp(torch.rand(images, count, 1, generator=generator, device="cuda") * 3.6)
    aspect = torch.exp((torch.rand(images, count, 1, generator=generator, device="cuda") - 0.5) * 1.4)
    half = torch.cat([side * aspect, side / aspect], dim=-1) / 2
    boxes = torch.cat([centre - half, centre + half], dim=-1).clamp(min=0)
    return torch.minimum(boxes, hw.flip(0).repeat(2))


def pyramid(dtype: torch.dtype, layout: torch.memory_format) -> list[Tensor]:
    """Four levels of an 800 x 1344 image."""
    sizes = [(-(-IMAGE_HW[0] // stride), -(-IMAGE_HW[1] // stride)) for stride in STRIDES]
    return [
        torch.randn(IMAGES, CHANNELS, *size, device="cuda", dtype=dtype).contiguous(memory_format=layout)
        for size in sizes
    ]


def roi_align_figures(clock: Clock) -> Iterator[Timed]:
    rois = some_boxes(IMAGES, BOXES)
    levels = roi_levels(rois, STRIDES).flatten()
    index = torch.arange(IMAGES, device="cuda").repeat_interleave(BOXES).float()
    flat = torch.cat([index[:, None], rois.reshape(-1, 4)], dim=1)
    of_level = [flat[levels == level].contiguous() for level in range(len(STRIDES))]
    per_image, sizes_hw = list(rois), [IMAGE_HW] * IMAGES
    layouts = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
    types = (torch.float32, torch.float16, torch.bfloat16)
    for (label, layout), dtype, size in product(layouts.items(), types, (7, 14)):
        maps = pyramid(dtype, layout)
        # torchvision has no bfloat16 kernel: it gets float32, and always the layout that it reads
        peers = [f.to(torch.float32 if dtype == torch.bfloat16 else dtype).contiguous() for f in maps]
        typed = [rows.to(peers[0].dtype) for rows in of_level]
        pooler = torchvision.ops.MultiScaleRoIAlign(["0", "1", "2", "3"], size, 2)
        named = {str(level): peer for level, peer in enumerate(peers)}

        def ours(maps: list[Tensor] = maps, size: int = size) -> Tensor:
            return multilevel_roi_align(maps, rois, list(STRIDES), size, 2, False)  # type: ignore[no-any-return]

        def torchvision_per_level(
            peers: list[Tensor] = peers, typed: list[Tensor] = typed, size: int = size
        ) -> Tensor:
            pooled = [
                torchvision.ops.roi_align(f, rows, size, 1 / stride, 2)
                for f, rows, stride in zip(peers, typed, STRIDES, strict=True)
            ]
            return torch.cat(pooled)

        def torchvision_pooler(
            pooler: Any = pooler, named: dict[str, Tensor] = named, dtype: torch.dtype = peers[0].dtype
        ) -> Tensor:
            return pooler(named, [boxes.to(dtype) for boxes in per_image], sizes_hw)  # type: ignore[no-any-return]

        moved = sum(f.numel() * f.element_size() for f in maps) + IMAGES * BOXES * (
            CHANNELS * size * size * dtype.itemsize + 16
        )
        name = f"roi_align {size}x{size} {str(dtype).removeprefix('torch.')} {label}"
        yield figure_of(
            name,
            moved,
            ours,
            clock,
            torchvision=torchvision_per_level,
            torchvision_pooler=torchvision_pooler,
        )
        del maps, peers, named


# Suppression


def class_scores(present: float) -> Tensor:
    """[images, classes, boxes]; that share of the rows above the score threshold, as after a softmax."""
    generator = torch.Generator("cuda").manual_seed(1)
    shape = (IMAGES, CLASSES, BOXES)
    scores = torch.rand(shape, generator=generator, device="cuda")
    here = torch.rand(shape, generator=generator, device="cuda") < present
    return torch.where(here, scores, -torch.inf)


def bytes_of(*tensors: Tensor) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def nms_figures(clock: Clock) -> Iterator[Timed]:
    boxes, limit = some_boxes(IMAGES, BOXES), torch.full((1,), 0.5, device="cuda")
    for label, present in [("3 % of rows present", 0.03), ("30 % of rows present", 0.3)]:
        scores = class_scores(present)
        flat = []
        for image in range(IMAGES):
            classes, rows = (scores[image] > -torch.inf).nonzero(as_tuple=True)
            flat.append((boxes[image, rows], scores[image, classes, rows], classes))
        keep = batched_nms(boxes, scores, limit)
        yield figure_of(
            f"batched_nms {IMAGES} x {CLASSES} classes, {label}",
            bytes_of(boxes, scores, keep),
            lambda scores=scores: batched_nms(boxes, scores, limit),  # type: ignore[misc]
            clock,
            torchvision=lambda flat=flat: [torchvision.ops.batched_nms(*row, 0.5) for row in flat],  # type: ignore[misc]
        )


def other_nms_figures(clock: Clock) -> list[Timed]:
    limit = torch.full((1,), 0.7, device="cuda")
    levels = 5
    groups = some_boxes(IMAGES * levels, BOXES)
    ranks = torch.randn(IMAGES * levels, 1, BOXES, device="cuda")
    by_image = groups.reshape(IMAGES, -1, 4)
    flat_scores = ranks.reshape(IMAGES, -1)
    level = torch.arange(levels, device="cuda").repeat_interleave(BOXES)

    def torchvision_rpn() -> list[Tensor]:
        return [torchvision.ops.batched_nms(by_image[i], flat_scores[i], level, 0.7) for i in range(IMAGES)]

    boxes, scores = groups[:IMAGES].contiguous(), class_scores(0.03)
    ious = torch.rand(IMAGES, BOXES, device="cuda")
    moved = bytes_of(boxes, scores)
    return [
        figure_of(
            f"batched_nms {IMAGES} x {levels} levels of the RPN",
            bytes_of(groups, ranks) + ranks.numel(),
            lambda: batched_nms(groups, ranks, limit),
            clock,
            torchvision=torchvision_rpn,
        ),
        figure_of(
            "iou_guided_nms, 3 % of rows present",
            moved + bytes_of(ious, scores) + scores.numel(),
            lambda: iou_guided_nms(boxes, scores, ious, limit),
            clock,
        ),
        figure_of(
            "soft_nms gaussian, 100 steps, 3 % of rows present",
            moved + bytes_of(scores),
            lambda: soft_nms(boxes, scores, limit, "gaussian", 0.5, 0.001, 100),
            clock,
        ),
    ]


# The compiler's view


def compiler_report(architectures: Sequence[int]) -> dict[str, dict[str, dict[str, int]]]:
    """Registers and bytes spilled of each kernel, by architecture."""
    entry = re.compile(
        r"entry function '(\w+)'.*?(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers",
        re.DOTALL,
    )
    report: dict[str, dict[str, dict[str, int]]] = {}
    for architecture in architectures:
        rows = report[f"sm_{architecture}"] = {}
        for name in KERNELS:
            _, log = compile_with_log(name, architecture, "cubin", ("--ptxas-options=-v",))
            for kernel, stores, loads, registers in entry.findall(log):
                rows[kernel] = {"registers": int(registers), "spilled_bytes": max(int(stores), int(loads))}
    return report


if __name__ == "__main__":
    typer.run(main)
