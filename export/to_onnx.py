"""Checkpoint to artifact: trace, store weights once, prove parity, and only then put it in its place."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from export.card import model_card
from export.errors import ExportError
from export.graphs import trace_graphs
from export.parity import Tolerance
from export.parity_inputs import Pixels, parity_inputs
from export.parity_report import ParityReport, check_parity
from export.prepare import prepared_copy
from export.weights import HALF_MIN_ELEMENTS, WeightsReport, store_weights
from hindsight.artifact import (
    FORMAT_VERSION,
    Artifact,
    ClassInfo,
    Defaults,
    Manifest,
    ResizeRule,
    load_artifact,
    write_artifact_manifest,
)
from hindsight.draw import palette
from hindsight.preprocess import decode_image
from hindsight.runtime import open_runtime
from model.checkpoint import load_checkpoint, round_to_half
from model.detector import TwoStageDetector

WEIGHTS = ("fp32", "fp16")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
_PARITY_PHOTOS = 3


@dataclass(frozen=True)
class Description:
    """What the artifact says of itself. samples: a folder of images (and notes) to ship along."""

    name: str
    version: str = "1"
    description: str = ""
    training_data: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    licence: str = "not stated"
    samples: Path | None = None
    # DIR's a, the reported threshold, its geometric mean, and its NMS threshold
    defaults: Defaults = field(default_factory=lambda: Defaults(0.05, 0.3, 0.5, 0.5))
    max_rescore_boxes: int = 1000


@dataclass(frozen=True)
class Exported:
    """The artifact in its place, and what is known about it. bytes_total: of all its files."""

    artifact: Artifact
    parity: ParityReport
    weights: WeightsReport
    bytes_total: int


def export_artifact(
    checkpoint: Path,
    out: Path,
    description: Description,
    *,
    weights: str = "fp32",
    tolerance: Tolerance | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Export `checkpoint` to the folder `out`, replacing an artifact that is there.

    weights "fp16" halves the size: the weights are rounded to float16 first, and parity is held against the
    rounded model. `progress` is told each step. Raises ExportError, CheckpointError, ArtifactError,
    ImageError; whatever is raised, `out` is as it was.
    """
    if weights not in WEIGHTS:
        raise ExportError(f"weights must be {' or '.join(WEIGHTS)}, got {weights!r}")
    progress("reading the checkpoint")
    detector, extra = load_checkpoint(checkpoint)
    manifest = manifest_of(detector, extra, description, checkpoint)
    samples = sample_files(description.samples)
    photos = [_photo(path) for path in samples if path.suffix.lower() in IMAGE_SUFFIXES][:_PARITY_PHOTOS]
    prepared = prepared_copy(detector)
    if weights == "fp16":
        _round(prepared)
        detector = prepared
    with _draft_of(out) as draft:
        progress("tracing the graphs")
        stored = store_weights(trace_graphs(prepared), draft, half=weights == "fp16")
        for sample in samples:
            (draft / "samples").mkdir(exist_ok=True)
            shutil.copyfile(sample, draft / "samples" / sample.name)
        write_artifact_manifest(draft, manifest)
        parity = _prove(detector, draft, manifest, photos, tolerance or Tolerance(), progress)
        sha256 = load_artifact(draft).manifest.files["model.onnx"]
        about = {"name": manifest.name, "version": manifest.version, "sha256": sha256}
        document = json.dumps(parity.to_json(about, len(photos)), indent=2)
        (draft / "parity.json").write_text(f"{document}\n", encoding="utf-8")
        card = model_card(manifest, parity_sentence(parity, weights))
        (draft / "MODEL_CARD.md").write_text(card, encoding="utf-8")
        progress("writing the manifest")
        write_artifact_manifest(draft, manifest)
        bytes_total = sum(file.stat().st_size for file in draft.rglob("*") if file.is_file())
        load_artifact(draft)
    return Exported(load_artifact(out, verify=False), parity, stored, bytes_total)


def manifest_of(
    detector: TwoStageDetector, extra: Mapping[str, Any], description: Description, checkpoint: Path
) -> Manifest:
    """The manifest, its files still to be listed. Raises ExportError where the checkpoint lacks something."""
    try:
        names, rule = [str(name) for name in extra["class_names"]], ResizeRule(**extra["resize"])
    except (KeyError, TypeError) as error:
        raise ExportError(
            f"{checkpoint} names no classes or no resize rule: was it written by hindsight train?"
        ) from error
    config = detector.config
    if len(names) != config.num_classes:
        raise ExportError(
            f"{checkpoint} has {config.num_classes} classes but names {len(names)}: {', '.join(names)}"
        )
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    return Manifest(
        format_version=FORMAT_VERSION,
        name=description.name,
        version=description.version,
        description=description.description,
        classes=tuple(
            ClassInfo(name, colour) for name, colour in zip(names, palette(len(names)), strict=True)
        ),
        resize=rule,
        defaults=description.defaults,
        nms_kind=config.nms.kind,
        max_detections=config.max_detections,
        max_rescore_boxes=description.max_rescore_boxes if detector.can_rescore else 0,
        has_localization=config.localization is not None,
        architecture={**dict(extra.get("recipe", {})), "parameters": parameters, "config": asdict(config)},
        training_data=dict(description.training_data),
        licence=description.licence,
        metrics=dict(description.metrics),
        files={},
        has_masks=config.mask is not None,
    )


def sample_files(folder: Path | None) -> list[Path]:
    """The files of a samples folder, by name. Raises ExportError where it is no folder or holds no image."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise ExportError(
            f"samples must be a folder of images, {folder} is {'a file' if folder.exists() else 'missing'}"
        )
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not any(path.suffix.lower() in IMAGE_SUFFIXES for path in files):
        raise ExportError(f"no image in the samples folder {folder}: expected {', '.join(IMAGE_SUFFIXES)}")
    return files


def parity_sentence(parity: ParityReport, weights: str) -> str:
    """What the model card says of the parity check."""
    compared = sum(case.run.matched for case in parity.cases)
    pixels = max(case.max_pixels for case in parity.cases)
    score = max(case.max_score for case in parity.cases)
    outliers = sum(case.run.outliers for case in parity.cases)
    tolerance = parity.candidate.tolerance
    stored = "float16 (rounded before the check)" if weights == "fp16" else "float32"
    return (
        f"Weights are stored as {stored}. Against the torch model, {compared} boxes compared: at most "
        f"{pixels:.1e} pixels and {score:.1e} of probability apart, {outliers} beyond the tolerance of "
        f"{tolerance.pixels:g} pixels and {tolerance.score:g}; parity.json has every case."
    )


def _round(detector: TwoStageDetector) -> None:
    round_to_half(detector, HALF_MIN_ELEMENTS)
    infinite = [name for name, parameter in detector.named_parameters() if not parameter.isfinite().all()]
    if infinite:
        raise ExportError(
            f"{infinite[0]} does not fit into float16 (or was not finite): export with fp32 weights"
        )


def _prove(
    detector: TwoStageDetector,
    draft: Path,
    manifest: Manifest,
    photos: Sequence[Pixels],
    tolerance: Tolerance,
    progress: Callable[[str], None],
) -> ParityReport:
    """Parity of the files as a user would load them. Raises ExportError where they differ."""
    progress("loading the graphs")
    runtime = open_runtime("onnxruntime", load_artifact(draft))
    try:
        inputs = parity_inputs(manifest.resize, manifest.defaults, photos)
        parity = check_parity(detector, runtime, inputs, tolerance, progress)
    finally:
        runtime.close()
    if not parity.passed:
        raise ExportError("the exported graphs differ from the torch model: " + "; ".join(parity.problems()))
    return parity


def _photo(path: Path) -> Pixels:
    return decode_image(path.read_bytes())


@contextmanager
def _draft_of(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when the block ends well, and vanishes when it does not."""
    if out.exists() and not out.is_dir():
        raise ExportError(f"{out} is a file; --out takes the folder to write")
    if out.is_dir() and any(out.iterdir()) and not (out / "manifest.json").is_file():
        raise ExportError(f"{out} holds something that is no artifact; name a new or empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        draft = Path(scratch) / "new"
        draft.mkdir()
        yield draft
        if out.exists():
            out.rename(Path(scratch) / "old")
        draft.rename(out)
