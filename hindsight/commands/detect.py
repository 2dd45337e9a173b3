"""`hindsight detect`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from hindsight.api import Detector, load, read_image
from hindsight.artifact import DEFAULT_MODEL
from hindsight.commands.console import BAD_INPUT, complain, output, progress_console
from hindsight.decode import IMAGE_SUFFIXES
from hindsight.detections import Detections
from hindsight.draw import annotate as draw_annotated
from hindsight.errors import HindsightError, OptionError

__all__ = ["detect"]

_WRITTEN_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_MANY = 4  # images from which a progress bar is worth its line
_DEFAULT = "Default: the model's own."


def detect(
    images: Annotated[
        list[Path], typer.Argument(help="Image files, and folders of them.", metavar="IMAGE|FOLDER")
    ],
    model: Annotated[str, typer.Option(help="Name or folder of the model.")] = DEFAULT_MODEL,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines on stdout: one object an image.")
    ] = False,
    annotate: Annotated[
        Path | None,
        typer.Option(
            help="Write the images with their boxes: to this folder, or for one image to this file."
        ),
    ] = None,
    score_threshold: Annotated[float | None, typer.Option(help=f"Least score, 0..1. {_DEFAULT}")] = None,
    class_threshold: Annotated[
        float | None, typer.Option(help=f"Least class score, 0..1. {_DEFAULT}")
    ] = None,
    iou_weight: Annotated[
        float | None, typer.Option(help=f"w of score = class^(1-w) * IoU^w, 0..1. {_DEFAULT}")
    ] = None,
    nms_threshold: Annotated[
        float | None, typer.Option(help=f"IoU above which the weaker of two boxes goes. {_DEFAULT}")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Keep these classes only: names with commas between.")
    ] = None,
    max_detections: Annotated[int | None, typer.Option(help=f"Most boxes an image. {_DEFAULT}")] = None,
    tile: Annotated[
        int | None,
        typer.Option(help="Look at each image in tiles of this side, in pixels: for large ones."),
    ] = None,
    overlap: Annotated[
        float | None, typer.Option(help="Least share of a tile that its neighbour has too. Default: .2.")
    ] = None,
    whole: Annotated[
        bool | None,
        typer.Option("--whole/--no-whole", help="With --tile: look at the whole image, too. Default: yes."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of the model. Default: all cores.")] = None,
) -> None:
    """Find objects in images, each box with a second opinion on itself.

    An unusable image is reported on stderr, the others are answered, and the exit status is 2.
    """
    options = {
        "score_threshold": score_threshold,
        "class_threshold": class_threshold,
        "iou_weight": iou_weight,
        "nms_threshold": nms_threshold,
        "classes": None if classes is None else [name.strip() for name in classes.split(",") if name.strip()],
        "max_detections": max_detections,
        "tile": tile,
        "overlap": overlap,
        "whole": whole,
    }
    paths, bad = _expand(images)
    targets = _targets(annotate, paths, single=len(images) == 1 and not images[0].is_dir())
    if paths:
        with load(model, threads=threads) as detector:
            detector.check_options(**options)  # once, not as every image's failure
            bad += _detect_each(detector, paths, targets, options, as_json)
    if bad:
        raise typer.Exit(BAD_INPUT)


def _detect_each(
    detector: Detector, paths: list[Path], targets: dict[Path, Path], options: dict[str, Any], as_json: bool
) -> int:
    """Detect, show and draw image by image; -> how many failed."""
    bad = 0
    stdout = output()
    for path, progress in _with_progress(paths):
        try:
            image = read_image(path)
            found = detector.detect(image, **options)
            if path in targets:
                _save(draw_annotated(image, found, detector.artifact.manifest.classes), targets[path])
        except HindsightError as error:
            with _paused(progress):
                complain(str(error))
            bad += 1
            continue
        with _paused(progress):
            if as_json:
                typer.echo(json.dumps(_record(path, found, detector), ensure_ascii=False, allow_nan=False))
            else:
                stdout.print(_table(path, found))
    return bad


def _expand(given: list[Path]) -> tuple[list[Path], int]:
    """The image files of what was given, in order and each once, and how many of the arguments were bad."""
    paths: dict[Path, None] = {}
    bad = 0
    for path in given:
        if path.is_dir():
            try:
                inside = sorted(child for child in path.iterdir() if child.suffix.lower() in IMAGE_SUFFIXES)
            except OSError as error:
                complain(f"{path}: cannot be read ({error.strerror})")
                bad += 1
                continue
            if not inside:
                complain(f"{path}: no images in this folder (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
                bad += 1
            paths.update(dict.fromkeys(inside))
        else:
            paths[path] = None  # whether it can be read shows when it is read
    return list(paths), bad


def _targets(annotate: Path | None, paths: list[Path], *, single: bool) -> dict[Path, Path]:
    """Where each annotated image goes. Raises OptionError for one that cannot be, or is an image itself."""
    if annotate is None:
        return {}
    if single and not annotate.is_dir() and annotate.suffix:
        if annotate.suffix.lower() not in _WRITTEN_SUFFIXES:
            raise OptionError(f"--annotate writes {', '.join(sorted(_WRITTEN_SUFFIXES))}, got {annotate}")
        if not annotate.absolute().parent.is_dir():
            raise OptionError(f"--annotate: there is no folder {annotate.parent}")
        targets = {paths[0]: annotate}
    else:
        try:
            annotate.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OptionError(f"--annotate {annotate} must be a folder ({error.strerror})") from error
        targets = _inside(annotate, paths)
    sources = {path.resolve() for path in paths}
    for target in targets.values():
        if target.resolve() in sources:
            raise OptionError(f"--annotate would overwrite the image {target}; choose another place")
    return targets


def _inside(folder: Path, paths: list[Path]) -> dict[Path, Path]:
    """A file in `folder` for each image, under its own name, numbered where two have the same."""
    targets: dict[Path, Path] = {}
    taken: set[str] = set()
    for path in paths:
        suffix = path.suffix if path.suffix.lower() in _WRITTEN_SUFFIXES else ".png"
        name, count = path.stem + suffix, 1
        while name.lower() in taken:
            count += 1
            name = f"{path.stem}-{count}{suffix}"
        taken.add(name.lower())
        targets[path] = folder / name
    return targets


def _save(image: Image.Image, target: Path) -> None:
    try:
        image.save(target, quality=92)
    except (OSError, ValueError) as error:  # ValueError: more pixels a side than the format can hold
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"--annotate: cannot write {target} ({reason})") from error


def _record(path: Path, found: Detections, detector: Detector) -> dict[str, Any]:
    height, width = found.image_hw
    manifest = detector.artifact.manifest
    return {
        "file": str(path),
        "model": manifest.name,
        "version": manifest.version,
        "image": {"width": width, "height": height},
        "detections": found.to_records(),
    }


def _table(path: Path, found: Detections) -> Table:
    height, width = found.image_hw
    title = Text(f"{path}  {width} x {height}  {len(found)} found")
    table = Table("label", title=title, title_justify="left")
    for name in ("score", "class score", "IoU", "purity", "integrity", "box: x1, y1, x2, y2"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in found.to_records():
        numbers = (row[key] for key in ("score", "class_score", "iou", "purity", "integrity"))
        table.add_row(
            Text(row["label"]),
            *("-" if value is None else f"{value:.3f}" for value in numbers),
            ", ".join(f"{value:.1f}" for value in row["box"]),
        )
    return table


def _with_progress(paths: list[Path]) -> Iterator[tuple[Path, Progress]]:
    console = progress_console()
    columns = (
        TextColumn("detecting"),
        *Progress.get_default_columns()[1:2],
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal and len(paths) >= _MANY
    # Redirecting would print what goes to stdout on the bar's console, which is stderr.
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not shown,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        task = progress.add_task("detecting", total=len(paths))
        for path in paths:
            yield path, progress
            progress.advance(task)


@contextmanager
def _paused(progress: Progress) -> Iterator[None]:
    """Take the bar off the terminal while something else is printed there."""
    progress.stop()
    try:
        yield
    finally:
        progress.start()
