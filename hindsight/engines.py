"""TensorRT engines of an artifact: what each says about itself, and which of them may be loaded here.

ARTIFACT/engines/<gpu>-<flavour><version>-<precision>/
    engine.json         an EngineRecord
    model.engine        the plan of model.onnx
    rescore.engine      the plan of rescore.onnx, where the model has one

An engine runs on the GPU and the TensorRT version it was built for, and answers as the graphs it was built
from: any other is refused with the command that builds the right one. Nothing of TensorRT is imported here.
"""

from __future__ import annotations

import hashlib
import logging
import shlex
from collections.abc import Sequence

from hindsight.artifact import Artifact
from hindsight.engine_record import (
    ANY_GPU,
    ENGINE_FORMAT,
    FLAVOURS,
    PRECISIONS,
    Bucket,
    Engine,
    EngineParity,
    EngineRecord,
    Plan,
    engine_folder_name,
    engines_folder,
    list_engines,
    read_engine,
    record_parity,
    write_record,
)
from hindsight.errors import ArtifactError, OptionError, RuntimeFailure

__all__ = [
    "ANY_GPU",
    "ENGINE_FORMAT",
    "FLAVOURS",
    "PRECISIONS",
    "Bucket",
    "Engine",
    "EngineParity",
    "EngineRecord",
    "Plan",
    "engine_folder_name",
    "engines_folder",
    "find_engine",
    "list_engines",
    "parity_command",
    "read_engine",
    "read_plan",
    "rebuild_command",
    "record_parity",
    "write_record",
]

_EXACT = "fp32"
_LOG = logging.getLogger(__name__)


def rebuild_command(artifact: Artifact, precision: str, record: EngineRecord | None = None) -> str:
    """The command that builds such an engine here, with the shapes of `record` if there is one."""
    words = ["hindsight", "export", str(artifact.path), "--to", "tensorrt", "--precision", precision]
    plan = record.plan_of("model.onnx") if record is not None else None
    if plan is not None:
        batches = sorted({bucket.batch for bucket in plan.buckets})
        sizes = dict.fromkeys(f"{bucket.height}x{bucket.width}" for bucket in plan.buckets)
        words += ["--batch", ",".join(map(str, batches)), "--size", ",".join(sizes)]
    return shlex.join(words)


def parity_command(artifact: Artifact, precision: str) -> str:
    """The command that compares its engine with the model."""
    words = ["hindsight", "parity", str(artifact.path), "--images", "FOLDER", "--backends"]
    return shlex.join([*words, f"onnxruntime@cpu,tensorrt:{precision}@cuda"])


def find_engine(
    artifact: Artifact,
    flavour: str,
    version: str,
    gpu: str,
    precision: str | None = None,
    *,
    capability: str | None = None,
    allow_failed_parity: bool = False,
) -> Engine:
    """The engine of `artifact` that may run here, its files verified.

    flavour, version: of the TensorRT that is installed. gpu: the name of the GPU. precision: None takes the
    first of PRECISIONS there is. capability: the GPU's compute capability, if known, which an engine for any
    GPU must list. allow_failed_parity: for `hindsight parity`, which measures it anew. Raises OptionError for
    an unknown precision; RuntimeFailure, with the command that builds one, where there is no engine for this
    GPU and version made from these very graphs, or where its recorded parity failed.
    """
    if precision is not None and precision not in PRECISIONS:
        raise OptionError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    fitting: list[Engine] = []
    others: list[Engine] = []  # would fit in another precision
    refused: list[tuple[str, EngineRecord | None]] = []
    for folder, engine in list_engines(artifact):
        if isinstance(engine, ArtifactError):
            refused.append((f"{folder.name} ({engine})", None))
        elif reasons := _reasons_against(
            engine.record, artifact, flavour, version, gpu, precision, capability
        ):
            refused.append((f"{folder.name} ({', '.join(reasons)})", engine.record))
            if reasons == [_of_precision(engine.record)]:
                others.append(engine)
        else:
            fitting.append(engine)
    if not fitting:
        raise RuntimeFailure(_nothing_fits(artifact, flavour, version, gpu, precision, refused))
    fitting.sort(key=lambda engine: PRECISIONS.index(engine.record.precision))
    chosen = _passing(fitting, others, artifact, allow_failed_parity)
    for plan in chosen.record.plans:
        read_plan(chosen, plan, artifact)
    if chosen.record.parity is None and not allow_failed_parity:
        _LOG.warning(
            "the engine %s has not been compared with the model yet: run %s",
            chosen.folder.name,
            parity_command(artifact, chosen.record.precision),
        )
    return chosen


def read_plan(engine: Engine, plan: Plan, artifact: Artifact) -> bytes:
    """The bytes of one of its plans. Raises RuntimeFailure where they are not those that engine.json listed
    when `engine` was read: the file may be damaged, or built anew since.
    """
    path = engine.folder / plan.file
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RuntimeFailure(f"{path}: cannot be read ({error.strerror})") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != plan.sha256:
        command = rebuild_command(artifact, engine.record.precision, engine.record)
        raise RuntimeFailure(
            f"{path} is not the file engine.json listed (sha256 {actual[:12]}..., expected "
            f"{plan.sha256[:12]}...): start again if it was built anew, else build it again: {command}"
        )
    return content


def _reasons_against(
    record: EngineRecord,
    artifact: Artifact,
    flavour: str,
    version: str,
    gpu: str,
    precision: str | None,
    capability: str | None,
) -> list[str]:
    reasons = []
    if record.gpu == ANY_GPU and capability not in (None, *record.compute_capabilities):
        reasons.append(f"for compute capability {', '.join(record.compute_capabilities)}, not {capability}")
    if record.gpu not in (gpu, ANY_GPU):
        reasons.append(f"for another GPU, {record.gpu}")
    if (record.flavour, record.version) != (flavour, version):
        reasons.append(f"for {record.flavour} {record.version}")
    files = artifact.manifest.files
    if not record.sources or any(files.get(name) != digest for name, digest in record.sources.items()):
        reasons.append("from older graphs of this model")
    if precision not in (None, record.precision):
        reasons.append(_of_precision(record))
    return reasons


def _of_precision(record: EngineRecord) -> str:
    return f"in {record.precision}"


def _nothing_fits(
    artifact: Artifact,
    flavour: str,
    version: str,
    gpu: str,
    precision: str | None,
    refused: Sequence[tuple[str, EngineRecord | None]],
) -> str:
    records = [record for _, record in refused if record is not None]
    wanted = precision or (records[0].precision if records else PRECISIONS[0])
    like = next((record for record in records if record.precision == wanted), None)
    found = "; ".join(text for text, _ in refused) or "no engine"
    return (
        f"expected an engine of {artifact.manifest.name} {artifact.manifest.version} for {gpu}, "
        f"{flavour} {version}{f', in {precision}' if precision else ''}; there is {found}; "
        f"build it here: {rebuild_command(artifact, wanted, like)}"
    )


def _passing(
    fitting: Sequence[Engine], others: Sequence[Engine], artifact: Artifact, allow_failed: bool
) -> Engine:
    for engine in fitting:
        parity = engine.record.parity
        if allow_failed or parity is None or parity.passed:
            return engine
        _LOG.warning("the engine %s is passed over: its recorded parity failed", engine.folder.name)
    engine = fitting[0]
    parity = engine.record.parity
    assert parity is not None  # or it would have been returned
    raise RuntimeFailure(
        f"the engine {engine.folder.name} does not answer as the model: its parity of {parity.date} failed "
        f"({parity.outliers} of {parity.compared} detections differ, by up to {parity.max_pixels:.2g} px and "
        f"{parity.max_score:.2g} of score); {_instead(fitting, others, artifact)}"
    )


def _instead(failed: Sequence[Engine], others: Sequence[Engine], artifact: Artifact) -> str:
    """What to do where every engine that fits has failed. others: of precisions that were not asked for."""
    passing = [
        engine.record.precision for engine in others if (parity := engine.record.parity) and parity.passed
    ]
    if passing:
        return f"there is one in {passing[0]} that passed: tensorrt:{passing[0]}"
    unmeasured = [engine.record.precision for engine in others if engine.record.parity is None]
    if unmeasured:
        return f"compare the one in {unmeasured[0]}: {parity_command(artifact, unmeasured[0])}"
    if _EXACT not in {engine.record.precision for engine in (*failed, *others)}:
        return f"build a more exact one: {rebuild_command(artifact, _EXACT, failed[0].record)}"
    return (
        f"{_EXACT} is the most exact there is: serve the model with --backend torch or onnxruntime; "
        f"if you have a reason to measure again: {parity_command(artifact, failed[0].record.precision)}"
    )
