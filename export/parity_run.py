"""`hindsight parity` without its console: each runtime in turn on the photos, compared, the result kept."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.average_precision import annotated_objects, why_unmeasured
from export.parity_backends import Answers, answers_of, compare_backends
from export.parity_limits import Limits, looser, parse_tolerance, precision_of, with_choices
from export.parity_photos import PhotoBatch, find_photos, plan_batches
from export.parity_result import CandidateResult, ParityResult
from hindsight.artifact import Artifact, find_artifact
from hindsight.engines import Engine, record_parity
from hindsight.errors import OptionError, RuntimeFailure
from hindsight.runtime import Runtime, open_runtime, runtime_names
from hindsight.runtime.cuda import Gpu, gpu_number
from hindsight.runtime.tensorrt import UNCHECKED

_PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx", "tensorrt-rtx-cu13")
_OF_ENGINES = "tensorrt"


@dataclass(frozen=True)
class Backend:
    """name: for `open_runtime`, an argument after a colon included."""

    name: str
    device: str

    def __str__(self) -> str:
        return f"{self.name}@{self.device}"

    def open(self, artifact: Artifact, threads: int | None) -> Runtime:
        """An engine whose parity failed is opened here too. Raises OptionError, RuntimeFailure."""
        words = self.name.split(":")
        may_have_failed = words[0] == _OF_ENGINES and UNCHECKED not in words
        name = f"{self.name}:{UNCHECKED}" if may_have_failed else self.name
        return open_runtime(name, artifact, device=self.device, threads=threads)


@dataclass(frozen=True)
class Request:
    """What is compared, and by which limits."""

    artifact: Artifact
    reference: Backend
    candidates: tuple[Backend, ...]
    tolerance: tuple[float, float] | None
    outliers: float | None

    @classmethod
    def parse(
        cls,
        model: str,
        backends: str,
        device: str,
        tolerance: str | None,
        outliers: float | None,
    ) -> Request:
        """From the command's words. Raises OptionError, ModelNotFound, ArtifactError."""
        named = [_backend(text, device) for text in _split(backends)]
        if len(named) < 2:
            raise OptionError(
                "--backends needs a reference and at least one other, as in onnxruntime,tensorrt"
            )
        return cls(find_artifact(model), named[0], tuple(named[1:]), parse_tolerance(tolerance), outliers)

    def limits(self, reference: str, candidate: str) -> Limits:
        """Of two runtimes that compute in these precisions."""
        return with_choices(looser(reference, candidate), self.tolerance, self.outliers)


def run_parity(
    request: Request,
    images: Path,
    annotations: Path | None,
    *,
    batch: int,
    limit: int | None,
    threads: int | None,
    progress: Callable[[str], None],
) -> ParityResult:
    """Compare on the photos of the folder `images`. One runtime is open at a time.

    A result of an engine is written into the engine's record. Raises OptionError, ImageError, RuntimeFailure.
    """
    artifact = request.artifact
    paths = find_photos(images, limit)
    names = [path.name for path in paths]
    classes = artifact.manifest.class_names
    truth = None
    if annotations is not None:
        if (reason := why_unmeasured()) is not None:
            raise OptionError(f"--annotations: {reason}")
        truth = annotated_objects(annotations, names, classes)
    progress("reading the photos")
    plan = plan_batches(paths, artifact.manifest.resize, batch)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    expected, reference_precision, reference_engine = _run(
        request.reference, artifact, plan, threads, progress, None
    )
    results = []
    for backend in request.candidates:
        found, precision, engine = _run(backend, artifact, plan, threads, progress, expected)
        limits = request.limits(reference_precision, precision)
        result = compare_backends(str(backend), expected, found, artifact, plan, limits, truth)
        # Two engines may be wrong alike: that one agrees with the other is no proof to keep.
        results.append(result if reference_engine else _recorded(result, engine, date))
    return ParityResult(
        reference=str(request.reference),
        candidates=tuple(results),
        model={
            "name": artifact.manifest.name,
            "version": artifact.manifest.version,
            "sha256": artifact.manifest.files["model.onnx"],
        },
        photos={
            "folder": images.name,
            "count": len(paths),
            "batch": batch,
            "annotations": None if annotations is None else annotations.name,
        },
        versions=_versions(),
        hardware=_hardware([request.reference, *request.candidates]),
        date=date,
    )


def _run(
    backend: Backend,
    artifact: Artifact,
    plan: Sequence[PhotoBatch],
    threads: int | None,
    progress: Callable[[str], None],
    reference: Answers | None,
) -> tuple[Answers, str, Engine | None]:
    """-> its answers, the precision it computes in, the engine that it runs."""
    progress(f"{backend}: loading")
    runtime = backend.open(artifact, threads)
    try:
        answers = answers_of(runtime, artifact, plan, lambda text: progress(f"{backend}: {text}"), reference)
        own = getattr(runtime, "engine", None)
        engine = own if isinstance(own, Engine) else None
        precision = precision_of(backend.name, runtime) if engine is None else engine.record.precision
        return answers, precision, engine
    finally:
        runtime.close()


def _recorded(result: CandidateResult, engine: Engine | None, date: str) -> CandidateResult:
    if engine is None:
        return result
    record_parity(engine.folder, result.for_engine(date))
    return replace(result, recorded_in=engine.folder.name)


def _split(backends: str) -> list[str]:
    """At the commas, but for those inside an argument: `torch:fp16,compile,tensorrt` are two."""
    known, found = runtime_names(), list[str]()
    for part in (word.strip() for word in backends.split(",")):
        inside = bool(found) and ":" in found[-1] and re.split("[:@]", part)[0] not in known
        if inside:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _backend(text: str, device: str) -> Backend:
    """`NAME`, `NAME:ARGUMENT`, and either with `@DEVICE`."""
    name, at, own = text.strip().partition("@")
    if not name or (at and not own):
        raise OptionError(f"--backends must be NAME or NAME@DEVICE with commas between, got {text!r}")
    return Backend(name, own or device)


def _hardware(backends: Sequence[Backend]) -> dict[str, str]:
    """The processor's architecture, and the GPUs that were asked for."""
    found = {"cpu": platform.processor() or platform.machine()}
    for device in dict.fromkeys(backend.device for backend in backends if backend.device != "cpu"):
        try:
            gpu = Gpu(gpu_number(device))
        except (OptionError, RuntimeFailure):  # a device of another kind, or no cuda-bindings to ask with
            found[device] = "unknown"
        else:
            found[device] = gpu.name
            gpu.close()
    return found


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
