"""The CPU against its peer: Faster R-CNN R50-FPN of torchvision, eager, and our export of the same weights.

    python -m benchmarks.cpu_peers --photo PHOTO.jpg --rounds 10

torchvision's detector is imported, exported and run in ONNX Runtime and in our torch runtime, on one photo at
800 x 1333, all in turns; then the shipped models in both runtimes. --weights torchvision takes the published
weights, or name a file of them; random ones otherwise. Writes benchmarks/results/cpu-peers.json.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torchvision
import typer
from numpy.typing import NDArray

from benchmarks.detector_facts import reference_and_ours
from benchmarks.turns import RESULTS, facts, in_turns, summary, write
from export.graphs import trace_graphs
from export.prepare import prepared_copy
from export.to_onnx import Description, manifest_of
from export.torch_runtime import open_torch
from export.weights import store_weights
from hindsight.artifact import Artifact, Defaults, find_artifact, load_artifact, write_artifact_manifest
from hindsight.decode import decode_image
from hindsight.inputs import detect_inputs
from hindsight.options import DetectOptions
from hindsight.overlap import pairwise_iou
from hindsight.preprocess import letterbox
from hindsight.runtime import Runtime, open_runtime
from model.convert import Conventions, convert
from model.detector import TwoStageDetector
from training.import_sources import read_source

BUILDER = "fasterrcnn_resnet50_fpn"
THRESHOLDS = {"class_threshold": 0.05, "score_threshold": 0.0, "iou_weight": 0.0, "nms_threshold": 0.5}
PEER = "torchvision, eager"
PACKAGES = ("torch", "torchvision", "onnxruntime", "numpy")
Program = Callable[[], Any]


def main(
    photo: Annotated[Path | None, typer.Option(help="The photo; a sample of `cells` if left out.")] = None,
    size: Annotated[str, typer.Option(help="Shorter and longer side at most.")] = "800x1333",
    rounds: Annotated[int, typer.Option(help="How often each program runs.")] = 10,
    weights: Annotated[
        str | None, typer.Option(help='"torchvision" (its published weights, fetched) or a file of them.')
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = RESULTS / "cpu-peers.json",
) -> None:
    """Measure, print and write."""
    load = os.getloadavg()[0]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    short_side, long_side = (int(side) for side in size.split("x"))
    path = photo or find_artifact("cells").samples[0]
    theirs, ours = detectors(weights)
    with tempfile.TemporaryDirectory() as folder:
        artifact = exported(ours, (short_side, long_side), Path(folder))
        peers, seen = peer_programs(theirs, artifact, path)
        table = summary(in_turns(peers, rounds), PEER)
        answers = {name: boxes_of(program()) for name, program in peers.items()}
    shipped = {name: shipped_model(name, rounds) for name in ("cells", "pcb")}
    for title, rows in {"R50-FPN": table, **shipped}.items():
        for name, row in rows.items():
            typer.echo(f"{title:8} {name:22} {row['median_ms']:9.1f} ms  {row['times_as_fast']:6.2f}x")
    result = {
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "r50_fpn": {
            "weights": weights or "random",
            "photo": path.name,
            "letterboxed_hw": list(seen),
            "detections": {name: len(boxes) for name, boxes in answers.items()},
            "of_the_peers_found": {name: found_share(answers[PEER], own) for name, own in answers.items()},
            "programs": table,
        },
        "shipped": shipped,
        **facts(PACKAGES, load),
    }
    write(out, result)
    typer.echo(f"wrote {out}")


def detectors(weights: str | None) -> tuple[torch.nn.Module, TwoStageDetector]:
    """torchvision's and ours, of the same weights, fed images that are scaled already."""
    if weights is None:
        return reference_and_ours()
    source = read_source(f"torchvision:{BUILDER}" if weights == "torchvision" else weights)
    # as torchvision's own builder makes it for its published weights
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        norm_layer=torchvision.ops.misc.FrozenBatchNorm2d,
        min_size=1,
        max_size=10_000,
    )
    for module in theirs.modules():
        if isinstance(module, torchvision.ops.misc.FrozenBatchNorm2d):
            module.eps = 0.0
    theirs.load_state_dict(source.state)
    theirs.transform.resize = lambda image, target=None: (image, target)
    return theirs.eval(), convert(source.state, Conventions(0.0, False, False)).detector


def exported(detector: TwoStageDetector, sides: tuple[int, int], folder: Path) -> Artifact:
    """The artifact as `hindsight export` makes it, but for the proof: the answers are compared here."""
    extra = {
        "class_names": [f"class {index}" for index in range(detector.config.num_classes)],
        "resize": {"short_side": sides[0], "long_side": sides[1], "pad_multiple": 32},
        "recipe": {"model": "faster_rcnn"},
    }
    about = Description("peer", defaults=Defaults(**THRESHOLDS))
    store_weights(trace_graphs(prepared_copy(detector)), folder, half=False)
    write_artifact_manifest(folder, manifest_of(detector, extra, about, folder))
    return load_artifact(folder)


def peer_programs(
    theirs: torch.nn.Module, artifact: Artifact, photo: Path
) -> tuple[dict[str, Program], tuple[int, int]]:
    """The three programs, and the height and width of what they all see."""
    inputs, valid_hw = letterboxed_inputs(artifact, photo)
    pixels = torch.from_numpy(inputs["images"][0, : valid_hw[0], : valid_hw[1]].copy())
    image = pixels.permute(2, 0, 1).float() / 255

    @torch.no_grad()
    def eager() -> Any:
        return theirs([image])

    ours = {name: of_runtime(runtime, inputs) for name, runtime in runtimes(artifact).items()}
    return {PEER: eager, **ours}, valid_hw


def runtimes(artifact: Artifact) -> dict[str, Runtime]:
    """Both of ours, by what they are called in the results."""
    return {
        "ours, ONNX Runtime": open_runtime("onnxruntime", artifact),
        "ours, torch": open_torch(artifact, device="cpu", threads=None, argument=""),
    }


def shipped_model(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """A shipped model on its first sample, in both runtimes; against ours in torch."""
    artifact = find_artifact(name)
    inputs, _ = letterboxed_inputs(artifact, artifact.samples[0])
    programs = {label: of_runtime(runtime, inputs) for label, runtime in runtimes(artifact).items()}
    return summary(in_turns(programs, rounds), "ours, torch")


def letterboxed_inputs(artifact: Artifact, photo: Path) -> tuple[dict[str, NDArray[Any]], tuple[int, int]]:
    """What model.onnx takes, at the model's own thresholds, and the valid height and width."""
    boxed = letterbox(decode_image(photo.read_bytes()), artifact.manifest.resize)
    return detect_inputs([boxed], [DetectOptions.resolve(artifact.manifest)]), boxed.valid_hw


def of_runtime(runtime: Runtime, inputs: dict[str, NDArray[Any]]) -> Program:
    """One detection."""
    return lambda: runtime.detect(inputs)


def boxes_of(answer: Any) -> NDArray[np.float32]:
    """The one image's boxes [n, 4]."""
    if isinstance(answer, dict):
        return np.asarray(answer["boxes"][0, : int(answer["num_detections"][0])])
    return np.asarray(answer[0]["boxes"])


def found_share(expected: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Which share of the expected boxes has a twin: both sides do the same work."""
    twins = (pairwise_iou(expected, found) > 0.99).any(axis=1)
    return round(float(twins.mean()), 4) if len(expected) else 1.0


if __name__ == "__main__":
    typer.run(main)
