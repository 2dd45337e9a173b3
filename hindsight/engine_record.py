"""engine.json: what a TensorRT engine says about itself. `hindsight.engines` gives the names on.

B: images in a batch. H, W: sides of the padded input in pixels. N: boxes to rescore in an image.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight.artifact import Artifact
from hindsight.engine_json import build
from hindsight.errors import ArtifactError, OptionError

ENGINE_FORMAT = 1
FLAVOURS = ("tensorrt", "tensorrt_rtx")
PRECISIONS = ("fp16", "bf16", "fp32")  # the order in which engines that fit are preferred
ANY_GPU = "any"  # an engine of TensorRT for RTX that was built for every GPU it knows
_ENGINES, _RECORD = "engines", "engine.json"


@dataclass(frozen=True)
class Bucket:
    """The shape an optimisation profile is tuned for.

    It runs any smaller height and width as they are: more padding would change what the model sees at the
    image's edges, and so its answers. Batch and boxes are fixed: blank ones, which change nothing, fill up.
    boxes: N of rescore.onnx, None in a plan of model.onnx.
    """

    batch: int
    height: int
    width: int
    boxes: int | None = None


@dataclass(frozen=True)
class Plan:
    """One serialised network. graph: the ONNX file it was built from. buckets: in the order of its profiles.
    plugin_layers: operators of ours in it, counted after parsing.
    """

    graph: str
    file: str
    sha256: str
    plugin_layers: int
    buckets: tuple[Bucket, ...]


@dataclass(frozen=True)
class EngineParity:
    """What `hindsight parity` measured of an engine against ONNX Runtime on the CPU.

    max_pixels, mean_pixels: of box corners. max_score: of any probability. compared: detections matched.
    outliers: of them and of those without a match, how many passed the tolerance. date: ISO 8601.
    """

    passed: bool
    max_pixels: float
    mean_pixels: float
    max_score: float
    compared: int
    outliers: int
    date: str


@dataclass(frozen=True)
class EngineRecord:
    """The contents of engine.json.

    gpu: the name NVIDIA's driver gives the GPU, or ANY_GPU. compute_capabilities: those it can run on, as in
    "9.0". sources: the artifact's files it was built from, each with its sha256. plugins_embedded: our
    operators are inside the plans, so that nothing need be registered to load them.
    """

    format_version: int
    flavour: str
    version: str
    gpu: str
    compute_capabilities: tuple[str, ...]
    precision: str
    plugins_embedded: bool
    sources: dict[str, str]
    plans: tuple[Plan, ...]
    parity: EngineParity | None = None

    def plan_of(self, graph: str) -> Plan | None:
        """The plan of "model.onnx" or "rescore.onnx"."""
        return next((plan for plan in self.plans if plan.graph == graph), None)


@dataclass(frozen=True)
class Engine:
    """An engine folder and its record."""

    folder: Path
    record: EngineRecord


def engine_folder_name(gpu: str, flavour: str, version: str, precision: str) -> str:
    """As in `nvidia-h100-80gb-hbm3-tensorrt10.13.3.9-fp16`."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return f"{slug}-{flavour}{version}-{precision}"


def engines_folder(artifact: Artifact) -> Path:
    """Where the engines of `artifact` lie; it need not exist."""
    return artifact.path / _ENGINES


def read_engine(folder: Path) -> Engine:
    """Read engine.json of `folder`. Raises ArtifactError where it is missing, newer, or not well formed."""
    path = Path(folder) / _RECORD
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({error})") from None
    version = document.get("format_version") if isinstance(document, dict) else None
    if version != ENGINE_FORMAT:
        raise ArtifactError(
            f"{path}: format_version must be {ENGINE_FORMAT}, got {version!r}: build the engine again"
        )
    try:
        record = build(EngineRecord, document)
        _check(record)
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from None
    return Engine(Path(folder), record)


def _check(record: EngineRecord) -> None:
    if record.precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {record.precision!r:.60}")
    for index, plan in enumerate(record.plans):
        if re.fullmatch(r"\w[\w.-]*", plan.file, re.ASCII) is None:  # so it lies in the engine's own folder
            raise ValueError(f"plans[{index}].file must be the name of a file, got {plan.file!r:.60}")


def write_record(folder: Path, record: EngineRecord) -> None:
    """Write engine.json into `folder`, atomically."""
    text = json.dumps(dataclasses.asdict(record), indent=2, allow_nan=False) + "\n"
    handle, draft = tempfile.mkstemp(prefix=".engine-", dir=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(draft, 0o644)
        os.replace(draft, Path(folder) / _RECORD)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def record_parity(engine_folder: Path, result: EngineParity | Mapping[str, Any]) -> None:
    """Write what was measured of the engine into its record, in place of what stood there.

    result: an EngineParity, or its fields. Raises ArtifactError for a folder without a record, OptionError
    for fields that are missing, unknown or ill-typed.
    """
    engine = read_engine(engine_folder)
    if not isinstance(result, EngineParity):
        try:
            result = build(EngineParity, dict(result))
        except ValueError as error:
            raise OptionError(f"not a parity result: {error}") from None
    write_record(engine.folder, dataclasses.replace(engine.record, parity=result))


def list_engines(artifact: Artifact) -> Iterator[tuple[Path, Engine | ArtifactError]]:
    """Every folder under engines/, by name, as its engine or as what is wrong with it."""
    root = engines_folder(artifact)
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if folder.is_dir() and not folder.name.startswith("."):
            try:
                yield folder, read_engine(folder)
            except ArtifactError as error:
                yield folder, error
