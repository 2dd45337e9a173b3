"""`hindsight export --to tensorrt`: what it takes and what it says."""

from __future__ import annotations

from pathlib import Path

from export.errors import ExportError
from export.tensorrt_shapes import parse_batches, parse_sizes
from export.to_tensorrt import Target, build_engine, check_precision, installed_flavour
from hindsight.artifact import Artifact
from hindsight.commands.console import output, progress_console
from hindsight.engines import ANY_GPU, Engine, parity_command
from hindsight.errors import RuntimeFailure

# What TensorRT for RTX builds for when it is told `any`: the kinds of GPU that it and our kernels know.
_EVERY_CAPABILITY = ("8.0", "8.6", "8.9", "12.0")


def export_engine(
    artifact: Artifact,
    *,
    precision: str,
    batch: str | None,
    size: str | None,
    gpu: str | None,
    plugin_library: Path | None,
    build_minutes: float,
) -> None:
    """Build the engine and say what was built; options as they were typed. Raises ExportError."""
    check_precision(precision)
    batches = parse_batches(batch)
    sizes = parse_sizes(size, artifact.manifest.resize)
    if plugin_library is not None and not plugin_library.is_file():
        raise ExportError(f"--plugin-library must be a compiled plugin, there is no {plugin_library}")
    target = target_of(installed_flavour(), gpu)
    console = progress_console()
    console.print(
        f"building {artifact.manifest.name} {artifact.manifest.version} for {target.gpu}, {target.flavour}, "
        f"{precision}: batches {', '.join(map(str, batches))}; "
        f"sizes {', '.join(f'{height}x{width}' for height, width in sizes)}",
        markup=False,
        highlight=False,
    )
    with console.status("starting") as status:
        engine = build_engine(
            artifact,
            target,
            precision=precision,
            batches=batches,
            sizes=sizes,
            plugin_library=plugin_library,
            minutes=build_minutes,
            progress=status.update,
        )
    output().print(_summary(engine, artifact), markup=False, highlight=False, soft_wrap=True)


def target_of(flavour: str, gpu: str | None) -> Target:
    """What to build for. gpu: None is this machine's; `any`, or compute capabilities as in "8.9,12.0", is for
    TensorRT for RTX alone. Raises ExportError.
    """
    if gpu is None:
        return _this_gpu(flavour)
    if flavour != "tensorrt_rtx":
        raise ExportError(
            f"--gpu is for TensorRT for RTX; {flavour} builds for the GPU of the machine it runs on"
        )
    if gpu == ANY_GPU:
        return Target(flavour, ANY_GPU, _EVERY_CAPABILITY, ANY_GPU)
    chosen = [word.strip() for word in gpu.split(",")]
    if not all(word.replace(".", "", 1).isdigit() and word[-2:-1] == "." for word in chosen):
        raise ExportError(f"--gpu must be any, or compute capabilities as in 8.9,12.0; got {gpu!r}")
    capabilities = tuple(dict.fromkeys(chosen))
    return Target(flavour, ANY_GPU, capabilities, f"sm{'-sm'.join(capabilities).replace('.', '')}")


def _this_gpu(flavour: str) -> Target:
    from hindsight.runtime.cuda import Gpu

    try:
        gpu = Gpu()
    except RuntimeFailure as error:
        advice = "run this on the GPU host"
        if flavour == "tensorrt_rtx":
            advice += ", or build for others with --gpu any (TensorRT for RTX)"
        raise ExportError(f"{error}; an engine is built for one GPU: {advice}") from error
    target = Target(flavour, gpu.name, (gpu.capability,), gpu.name)
    gpu.close()
    return target


def _summary(engine: Engine, artifact: Artifact) -> str:
    record = engine.record
    size = sum((engine.folder / plan.file).stat().st_size for plan in record.plans) / 1e6
    layers = ", ".join(f"{plan.graph} {plan.plugin_layers}" for plan in record.plans)
    lines = [f"wrote {engine.folder}: {size:.1f} MB, plugin layers: {layers}"]
    if record.gpu == ANY_GPU:
        lines.append(
            f"it runs on GPUs of compute capability {', '.join(record.compute_capabilities)}; on a machine "
            "without one it can be built, but not run"
        )
    command = parity_command(artifact, record.precision)
    lines.append(f"compare it with the model before you serve it: {command}")
    return "\n".join(lines)
