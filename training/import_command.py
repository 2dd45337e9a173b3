"""`hindsight import`: another library's detector in, a Hindsight checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from model.convert import Conversion
    from training.import_sources import Source


def import_detector(
    source: Annotated[
        str,
        typer.Argument(
            help="torchvision:NAME (its published weights, fetched), or a file: .safetensors, or a .pth of "
            "tensors and plain values."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Checkpoint to write: a .safetensors file.")],
    classes: Annotated[
        str | None,
        typer.Option(
            help="Class names, background left out: separated by commas, or a file with one a line."
        ),
    ] = None,
    short_side: Annotated[
        int, typer.Option(min=32, help="Shorter side of the images it was trained on, in pixels.")
    ] = 800,
    long_side: Annotated[int, typer.Option(min=32, help="Their longer side at most.")] = 1333,
    style: Annotated[
        str, typer.Option(help='mmdetection: "pytorch", or "caffe" (BGR, stride in the first 1x1).')
    ] = "pytorch",
    norm_eps: Annotated[
        float | None,
        typer.Option(help="Epsilon of the backbone's batch norms; 0 for a file of torchvision's v1 weights."),
    ] = None,
    boxes_only: Annotated[
        bool, typer.Option("--boxes-only", help="Of a detector with masks, bring in all but the mask head.")
    ] = False,
) -> None:
    """Make a checkpoint of a torchvision or mmdetection detector."""
    from hindsight.commands.console import fail
    from hindsight.errors import HindsightError
    from model.checkpoint import CheckpointError

    try:
        _import(source, out, classes, (short_side, long_side), style, norm_eps, boxes_only)
    except (HindsightError, CheckpointError) as error:
        fail(str(error))


def _import(
    source: str,
    out: Path,
    classes: str | None,
    sides: tuple[int, int],
    style: str,
    norm_eps: float | None,
    boxes_only: bool,
) -> None:
    from dataclasses import asdict

    from hindsight.artifact import ResizeRule
    from hindsight.errors import OptionError
    from model.checkpoint import save_checkpoint
    from model.convert import Conventions, convert
    from training.import_sources import read_source

    if out.suffix != ".safetensors":
        raise OptionError(f"--out must name a .safetensors file, got {out}")
    if style not in ("pytorch", "caffe"):
        raise OptionError(f'--style must be "pytorch" or "caffe", got {style!r}')
    if norm_eps is not None and not 0 <= norm_eps < 1:  # false for NaN too
        raise OptionError(f"--norm-eps must be at least 0 and below 1, got {norm_eps}")
    if sides[0] > sides[1]:
        raise OptionError(f"--short-side {sides[0]} exceeds --long-side {sides[1]}")
    found = read_source(source)
    eps = found.norm_eps if norm_eps is None else norm_eps
    conversion = convert(found.state, Conventions(eps, style == "caffe", boxes_only))
    detector = conversion.detector
    names = _class_names(classes, found, detector.config.num_classes)
    extra = {
        "class_names": list(names),
        "resize": asdict(ResizeRule(*sides)),
        "recipe": {"model": conversion.layout, "backbone": detector.config.backbone.name},
        "imported": {"source": found.name, "layout": conversion.layout},
    }
    try:
        save_checkpoint(out, detector, extra)
    except OSError as error:
        raise OptionError(f"can't write {out}: {error}") from error
    typer.echo(_summary(out, conversion, names, eps), err=True)


def _class_names(given: str | None, source: Source, count: int) -> tuple[str, ...]:
    """As given, else as the source tells them. Raises OptionError unless there are `count` different ones."""
    from hindsight.errors import OptionError

    if given is None:
        if source.class_names is None:
            raise OptionError(
                f"{source.name} doesn't name its classes: give its {count} with --classes a,b,... or a file"
            )
        names = source.class_names
    elif "," not in given and Path(given).is_file():
        try:
            lines = Path(given).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise OptionError(f"class names can't be read from {given}: {error}") from error
        names = tuple(line.strip() for line in lines if line.strip())
    else:
        names = tuple(name.strip() for name in given.split(","))
    if len(names) != count:
        raise OptionError(f"{source.name} has {count} classes, got {len(names)} names: {', '.join(names)}")
    if len(set(names)) != count or not all(names):
        raise OptionError(f"class names must differ and not be empty, got {', '.join(names)}")
    return names


def _summary(out: Path, conversion: Conversion, names: tuple[str, ...], eps: float | None) -> str:
    backbone = conversion.detector.config.backbone.name
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    hint = ""
    if conversion.layout == "torchvision v1" and eps is None:
        hint = "; batch norms with epsilon 1e-5 (torchvision's own published v1 weights want --norm-eps 0)"
    return f"wrote {out}: {conversion.layout}, {backbone}, {len(names)} classes ({shown}){hint}"
