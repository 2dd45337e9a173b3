"""Artifact to engine: graphs readied in memory, built by TensorRT in another process, put in place whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from export.errors import ExportError
from export.tensorrt_graph import TensorRtGraph, tensorrt_graph
from export.tensorrt_process import draft_folder, run_builder
from export.tensorrt_shapes import Size, detection_buckets, rescoring_buckets
from export.tensorrt_worker import GraphJob, Job
from hindsight.artifact import Artifact
from hindsight.engines import (
    ENGINE_FORMAT,
    FLAVOURS,
    PRECISIONS,
    Bucket,
    Engine,
    EngineRecord,
    Plan,
    engine_folder_name,
    engines_folder,
    read_engine,
    write_record,
)
from hindsight.extras import install_extra

BUILD_MINUTES = 240.0  # a large model at many shapes takes TensorRT an hour


@dataclass(frozen=True)
class Target:
    """What an engine is built for. gpu: a name, or ANY_GPU. capabilities: compute capabilities, as "8.9".
    label: what the name of its folder begins with.
    """

    flavour: str
    gpu: str
    capabilities: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class _Prepared:
    """One graph, ready to be built."""

    graph: TensorRtGraph
    name: str
    buckets: tuple[Bucket, ...]

    @property
    def plan(self) -> str:
        return f"{Path(self.name).stem}.engine"


def installed_flavour() -> str:
    """tensorrt where it is installed, else tensorrt_rtx. Raises ExportError where neither is."""
    for flavour in FLAVOURS:
        if find_spec(flavour) is not None:
            return flavour
    raise ExportError(f"TensorRT is not installed: {install_extra('tensorrt')}")


def check_precision(precision: str) -> None:
    """Raises ExportError for one that no engine has."""
    if precision not in PRECISIONS:
        raise ExportError(f"--precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")


def build_engine(
    artifact: Artifact,
    target: Target,
    *,
    precision: str,
    batches: Sequence[int],
    sizes: Sequence[Size],
    plugin_library: Path | None = None,
    minutes: float = BUILD_MINUTES,
    progress: Callable[[str], None] = lambda text: None,
) -> Engine:
    """Build the engine of `artifact` into its engines/ folder; one that is there is replaced.

    plugin_library: a compiled plugin to embed; None uses the Python plugins. minutes: that TensorRT may take.
    Raises ExportError, and leaves nothing behind, where a graph does not fit, TensorRT refuses, dies or takes
    too long, or the disk is full.
    """
    check_precision(precision)
    root = engines_folder(artifact)
    with ExitStack() as stack:
        try:
            scratch = stack.enter_context(draft_folder(root))
        except OSError as error:
            raise ExportError(
                f"{root} cannot be written ({error.strerror}): copy the model folder and export the copy"
            ) from error
        draft = scratch / "engine"
        prepared = _prepare(artifact, precision, batches, sizes, progress)
        least = artifact.manifest.resize.pad_multiple
        cache = root / f".timing-{engine_folder_name(target.label, target.flavour, '', 'any')}"
        try:
            draft.mkdir()
            job = _job(prepared, least, target, scratch, draft, plugin_library, cache)
            version = _run(job, scratch, minutes, progress)
            record = EngineRecord(
                format_version=ENGINE_FORMAT,
                flavour=target.flavour,
                version=version,
                gpu=target.gpu,
                compute_capabilities=target.capabilities,
                precision=precision,
                plugins_embedded=plugin_library is not None,
                sources=_sources(artifact, prepared),
                plans=tuple(_plan(item, draft) for item in prepared),
            )
            write_record(draft, record)
        except OSError as error:
            raise ExportError(f"the engine cannot be written into {root} ({error.strerror})") from error
        place = root / engine_folder_name(target.label, target.flavour, version, precision)
        _put(draft, place, scratch / "old")
    return read_engine(place)


def _put(draft: Path, place: Path, old: Path) -> None:
    """Move `draft` to `place`, and what is there to `old`. Servers have read theirs: they go on with it."""
    try:
        if place.exists():
            place.rename(old)
        draft.rename(place)
    except OSError as error:
        if old.exists() and not place.exists():
            old.rename(place)
        raise ExportError(f"{place} cannot be put in place ({error.strerror})") from error


def _prepare(
    artifact: Artifact,
    precision: str,
    batches: Sequence[int],
    sizes: Sequence[Size],
    progress: Callable[[str], None],
) -> list[_Prepared]:
    paths = [(artifact.model_path, detection_buckets(batches, sizes))]
    if artifact.rescore_path is not None:
        count = artifact.manifest.max_rescore_boxes
        paths.append((artifact.rescore_path, rescoring_buckets(batches, sizes, count)))
    prepared = []
    for path, buckets in paths:
        progress(f"{path.name}: reading")
        prepared.append(_Prepared(tensorrt_graph(path, precision), path.name, buckets))
    return prepared


def _job(
    prepared: Sequence[_Prepared],
    least_side: int,
    target: Target,
    scratch: Path,
    draft: Path,
    plugin_library: Path | None,
    cache: Path,
) -> Job:
    graphs = []
    for item in prepared:
        source = scratch / item.name
        source.write_bytes(item.graph.model.SerializeToString())
        profiles = tuple(item.graph.profile(bucket, least_side) for bucket in item.buckets)
        graphs.append(
            GraphJob(item.name, str(source), str(draft / item.plan), item.graph.plugin_layers, profiles)
        )
    return Job(
        flavour=target.flavour,
        graphs=tuple(graphs),
        capabilities=target.capabilities if target.flavour == "tensorrt_rtx" else (),
        # TensorRT for RTX times nothing before it runs
        timing_cache=str(cache) if target.flavour == "tensorrt" else None,
        plugin_library=None if plugin_library is None else str(plugin_library.resolve()),
    )


def _run(job: Job, scratch: Path, minutes: float, progress: Callable[[str], None]) -> str:
    """Run the job in a process of its own; -> TensorRT's version. Raises ExportError with its last words."""
    description = scratch / "job.json"
    description.write_text(json.dumps(dataclasses.asdict(job)), encoding="utf-8")
    return str(run_builder(description, _environment(scratch), minutes, progress)["version"])


def _environment(scratch: Path) -> dict[str, str]:
    """This process's, with our packages on the path and the name that TensorRT for RTX looks itself up by.

    Its wheel ships libtensorrt_rtx.so.1 alone, but loads libtensorrt_rtx.so when it meets a plugin, and
    aborts without it.
    """
    environment = dict(os.environ)
    roots = [str(Path(__file__).resolve().parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(root for root in roots if root)
    spec = find_spec("tensorrt_rtx_libs")
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        library = Path(folder) / "libtensorrt_rtx.so.1"
        if library.is_file() and not library.with_suffix("").exists():
            (scratch / "lib").mkdir()
            (scratch / "lib" / "libtensorrt_rtx.so").symlink_to(library)
            paths = [str(scratch / "lib"), environment.get("LD_LIBRARY_PATH", "")]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)
            break
    return environment


def _plan(item: _Prepared, draft: Path) -> Plan:
    with (draft / item.plan).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return Plan(item.name, item.plan, digest, item.graph.plugin_layers, item.buckets)


def _sources(artifact: Artifact, prepared: Sequence[_Prepared]) -> dict[str, str]:
    names = {item.name for item in prepared} | {file for item in prepared for file in item.graph.weight_files}
    return {name: artifact.manifest.files[name] for name in sorted(names)}
