"""`hindsight export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from export.to_onnx import Exported
    from hindsight.artifact import Artifact

_BYTES_PER_MB = 1e6


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A .safetensors checkpoint written by hindsight train; "
            "with --to tensorrt also a model folder or a shipped model's name."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; an artifact that is there is replaced.")
    ] = None,
    to: Annotated[
        str, typer.Option(help="onnx: a model folder. tensorrt: an engine inside one, on a GPU host.")
    ] = "onnx",
    name: Annotated[str | None, typer.Option(help="Name of the model. (default: the folder's)")] = None,
    version: Annotated[str, typer.Option(help="Version of the model.")] = "1",
    samples: Annotated[Path | None, typer.Option(help="Folder of sample images to ship along.")] = None,
    metrics: Annotated[Path | None, typer.Option(help="metrics.json of hindsight evaluate.")] = None,
    weights: Annotated[str, typer.Option(help="fp16 (half the size) or fp32.")] = "fp32",
    description: Annotated[str, typer.Option(help="One line about the model.")] = "",
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "not stated",
    training_data: Annotated[
        str, typer.Option(help="What it was trained on, in words or a JSON object.")
    ] = "",
    class_threshold: Annotated[float, typer.Option(help="Default class threshold.")] = 0.05,
    score_threshold: Annotated[float, typer.Option(help="Default score threshold.")] = 0.3,
    iou_weight: Annotated[
        float, typer.Option(help="Default weight of the predicted IoU in the score.")
    ] = 0.5,
    nms_threshold: Annotated[float, typer.Option(help="Default NMS threshold.")] = 0.5,
    precision: Annotated[str, typer.Option(help="Of an engine: fp32, fp16 or bf16.")] = "fp16",
    batch: Annotated[str | None, typer.Option(help="Batches an engine is built for. (default: 1,8)")] = None,
    size: Annotated[
        str | None,
        typer.Option(help="HEIGHTxWIDTH,... an engine is built for. (default: from the resize rule)"),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(help="TensorRT for RTX only: any, or compute capabilities. (default: this GPU)"),
    ] = None,
    plugin_library: Annotated[
        Path | None, typer.Option(help="Compiled plugin to embed in an engine. (default: Python plugins)")
    ] = None,
    build_minutes: Annotated[
        float, typer.Option(min=0.1, help="Minutes that building an engine may take.")
    ] = 240,
) -> None:
    """Turn a checkpoint into a model folder that runs without torch, proven equal to the checkpoint; or a
    model folder into a TensorRT engine.
    """
    # Heavy imports wait until they are needed.
    from hindsight.commands.console import fail, output
    from hindsight.errors import HindsightError

    options = _EngineOptions(precision, batch, size, gpu, plugin_library, build_minutes)
    try:
        checkpoint = _checkpoint(source, out, to)
        if checkpoint is None:
            return _export_engine(_artifact(source), options)
    except (HindsightError, OSError) as error:
        fail(str(error))

    from export.to_onnx import Description, export_artifact
    from hindsight.artifact import Defaults
    from hindsight.commands.console import progress_console
    from model.checkpoint import CheckpointError

    try:
        assert out is not None  # _checkpoint saw to it
        about = Description(
            name=name or out.resolve().name,
            version=version,
            description=description,
            training_data=_training_data(training_data),
            metrics=_metrics(metrics),
            licence=licence,
            samples=samples,
            defaults=Defaults(class_threshold, score_threshold, iou_weight, nms_threshold),
        )
        with progress_console().status("starting") as status:
            exported = export_artifact(checkpoint, out, about, weights=weights, progress=status.update)
        console = output()
        console.print(_table(exported))
        console.print(_summary(exported), markup=False, highlight=False)
        if to == "tensorrt":
            _export_engine(exported.artifact, options)
    except (HindsightError, CheckpointError, OSError) as error:
        fail(str(error))


class _EngineOptions(NamedTuple):
    """What only an engine is asked for, as it was typed."""

    precision: str
    batch: str | None
    size: str | None
    gpu: str | None
    plugin_library: Path | None
    build_minutes: float


def _checkpoint(source: str, out: Path | None, to: str) -> Path | None:
    """The checkpoint to begin with; None where an engine is made of a model that is there already."""
    from export.errors import ExportError

    if to not in ("onnx", "tensorrt"):
        raise ExportError(f"--to must be onnx or tensorrt, got {to!r}")
    if to == "tensorrt" and not source.endswith(".safetensors"):
        if out is not None:
            raise ExportError(f"--out is for checkpoints: the engine goes into the folder of {source}")
        return None
    if not source.endswith(".safetensors"):
        raise ExportError(
            f"--to onnx takes a .safetensors checkpoint, got {source!r}; for an engine of a model add "
            "--to tensorrt"
        )
    if out is None:
        raise ExportError("--out is missing: the folder to write the model into")
    return Path(source)


def _artifact(source: str) -> Artifact:
    from hindsight.artifact import find_artifact

    return find_artifact(source)


def _export_engine(artifact: Artifact, options: _EngineOptions) -> None:
    from export.tensorrt_command import export_engine

    export_engine(artifact, **options._asdict())


def _metrics(path: Path | None) -> dict[str, Any]:
    from export.errors import ExportError

    if path is None:
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"--metrics must be a metrics.json: {path} cannot be read ({error})") from error
    if not isinstance(values, dict):
        raise ExportError(f"--metrics must hold a JSON object, {path} holds {type(values).__name__}")
    return _headline(values)


def _headline(report: dict[str, Any]) -> dict[str, Any]:
    """The figures of an evaluation report that a manifest carries; any other object as it is."""
    found = report.get("metrics")
    if not isinstance(found, dict) or "ap" not in found:
        return report
    names = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "AP90": "ap90"}
    figures: dict[str, Any] = {name: found[key] for name, key in names.items()}
    data = report.get("data", {})
    place = " ".join(str(data[key]) for key in ("name", "split") if data.get(key))  # a COCO file has no split
    figures["measured_on"] = f"{place or 'a set without a name'}, {found['images']} images"
    return figures


def _training_data(text: str) -> dict[str, Any]:
    """A JSON object as it is; other words under the key `summary`."""
    if not text.strip():
        return {}
    try:
        values = json.loads(text)
    except ValueError:
        return {"summary": text}
    return values if isinstance(values, dict) else {"summary": text}


def _table(exported: Exported) -> Any:
    from rich.table import Table

    table = Table(title="Parity: torch against ONNX Runtime")
    for heading in (
        "graph",
        "case",
        "batch",
        "size",
        "compared",
        "at a cliff",
        "outliers",
        "max px",
        "max score",
    ):
        table.add_column(heading, justify="left" if heading in ("graph", "case") else "right")
    for case in exported.parity.cases:
        table.add_row(
            case.graph,
            case.run.run,
            str(case.run.images),
            f"{case.height}x{case.width}",
            str(case.run.matched),
            str(case.run.at_a_cliff),
            str(case.run.outliers),
            f"{case.max_pixels:.1e}",
            f"{case.max_score:.1e}",
        )
    return table


def _summary(exported: Exported) -> str:
    weights, manifest = exported.weights, exported.artifact.manifest
    return (
        f"wrote {manifest.name} {manifest.version} to {exported.artifact.path}: "
        f"{exported.bytes_total / _BYTES_PER_MB:.1f} MB, {weights.tensors} tensors, "
        f"{weights.bytes_shared / _BYTES_PER_MB:.1f} MB shared between the graphs"
    )
