"""`hindsight detect`: the options; detect_job.py does what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hindsight.commands.detect_engine import DEFAULT_BACKEND, DEFAULT_DEVICE, Choice
from hindsight.commands.detect_job import Request, run_job
from hindsight.jobs.outputs import FORMATS
from hindsight.video import Sampling, parse_time

__all__ = ["detect"]

_DEFAULT = "Default: the model's own."
_RESULTS = "Results"
_WORK = "Who does the work"
_VIDEOS = "Videos"


def detect(
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Image and video files, folders of images, quoted patterns such as 'photos/**/*.jpg', and - "
            "for a list of files on stdin.",
            metavar="FILE|FOLDER|PATTERN|-",
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="Name or folder of the model. Default: cells, or the server's own.")
    ] = None,
    recursive: Annotated[
        bool, typer.Option(help="Take the folders in a folder too. Hidden ones are always left out.")
    ] = True,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="JSON lines on stdout: one object an image.", rich_help_panel=_RESULTS),
    ] = False,
    annotate: Annotated[
        Path | None,
        typer.Option(
            help="Write the images with their boxes: to this folder, or for one image to this file. Videos "
            "as videos.",
            rich_help_panel=_RESULTS,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the results of the whole job to this folder, or to this .json or .jsonl file. The "
            "same command run again goes on where it was stopped.",
            rich_help_panel=_RESULTS,
        ),
    ] = None,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help=f"What --out writes: {', '.join(FORMATS)}. Default: coco.",
            rich_help_panel=_RESULTS,
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start the job of --out over.", rich_help_panel=_RESULTS)
    ] = False,
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
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes with a model each, by default as the cores suggest; with --server requests at a "
            "time, by default 4.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of each model. Default: the cores, shared out.", rich_help_panel=_WORK),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="What executes the model: docs/runtimes.md.", rich_help_panel=_WORK)
    ] = DEFAULT_BACKEND,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.", rich_help_panel=_WORK)] = DEFAULT_DEVICE,
    server: Annotated[
        str | None,
        typer.Option(
            help="Let this running server do the work, such as http://localhost:8000. "
            "Its key, if it asks for one: $HINDSIGHT_API_KEY.",
            metavar="URL",
            rich_help_panel=_WORK,
        ),
    ] = None,
    stride: Annotated[int, typer.Option(help="Look at every so many-th frame.", rich_help_panel=_VIDEOS)] = 1,
    fps: Annotated[
        float | None, typer.Option(help="Look at so many frames a second instead.", rich_help_panel=_VIDEOS)
    ] = None,
    start: Annotated[
        str, typer.Option(help="From here on: seconds, or [HH:]MM:SS.", rich_help_panel=_VIDEOS)
    ] = "0",
    end: Annotated[str | None, typer.Option(help="Until before here.", rich_help_panel=_VIDEOS)] = None,
) -> None:
    """Find objects in images and videos, each box with a second opinion on itself.

    An unusable file is reported on stderr, the others are answered, and the exit status is 2.
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
    request = Request(
        inputs=inputs,
        choice=Choice(model, backend, device, workers, threads, options),
        server=server,
        recursive=recursive,
        as_json=as_json,
        annotate=annotate,
        out=out,
        format=format_name,
        restart=restart,
        sampling=Sampling(stride, fps, parse_time(start), None if end is None else parse_time(end)),
    )
    raise typer.Exit(run_job(request))
