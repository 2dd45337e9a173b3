"""`hindsight pull`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from hindsight.commands.console import progress_console
from hindsight.errors import OptionError
from hindsight.hub.install import Installed, Plan, install, plan
from hindsight.hub.rules import Limits, size_text
from hindsight.hub.sources import HUB_PREFIX, FolderSource, Source, ZipSource
from hindsight.places import models_folder

__all__ = ["pull"]

_GIGABYTE = 1e9


def pull(
    source: Annotated[
        str, typer.Argument(help="hf://user/repo, hf://user/repo@revision, a zip file or a model folder.")
    ],
    models: Annotated[
        Path | None,
        typer.Option(
            help="Folder of models to put it into, as NAME/VERSION. Default: the first of $HINDSIGHT_MODELS, "
            "else ~/.local/share/hindsight/models."
        ),
    ] = None,
    max_size: Annotated[float, typer.Option(help="Most gigabytes of a model.", min=0.001, max=1000)] = 2.0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be fetched, and fetch nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Fetch a model, check every file of it, and make it usable by its name.

    Nothing that could be run is fetched. A pull that was stopped goes on where it was.

    For a private repository set HF_TOKEN.
    """
    folder = models if models is not None else models_folder()
    with _opened(source) as opened:
        planned = plan(opened, Limits(max_bytes=round(max_size * _GIGABYTE)))
        if dry_run:
            _say_plan(planned, as_json)
            return
        _say_installed(_install(planned, folder), planned, as_json)


@contextmanager
def _opened(text: str) -> Iterator[Source]:
    """Raises OptionError, ArtifactError, ModuleNotFoundError where an extra is not installed."""
    if text.startswith(HUB_PREFIX):
        from hindsight.hub.huggingface import HubSource

        yield HubSource(text)
        return
    path = Path(text)
    if os.path.isdir(text):  # pathlib's raise for a name that no file can have
        yield FolderSource(path)
    elif os.path.isfile(text):
        archive = ZipSource(path)
        try:
            yield archive
        finally:
            archive.close()
    else:
        raise OptionError(f"expected hf://user/repo, a zip file or a model folder; there is no {text!r}")


def _install(planned: Plan, folder: Path) -> Installed:
    console = progress_console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(planned.manifest.name, total=planned.total)
        return install(
            planned,
            folder,
            on_file=lambda name: progress.update(task, description=name),
            advance=lambda count: progress.update(task, advance=count),
        )


def _say_plan(planned: Plan, as_json: bool) -> None:
    manifest = planned.manifest
    if as_json:
        described = {"name": manifest.name, "version": manifest.version, "licence": manifest.licence}
        typer.echo(
            json.dumps({**described, "bytes": planned.total, "files": planned.files}, ensure_ascii=False)
        )
        return
    typer.echo(
        f"{manifest.name} {manifest.version}, {size_text(planned.total)}, licence: {_line(manifest.licence)}"
    )
    for name, size in planned.files.items():
        typer.echo(f"  {name}  {size_text(size)}")


def _say_installed(done: Installed, planned: Plan, as_json: bool) -> None:
    manifest, path = planned.manifest, done.artifact.path
    if as_json:
        record = {
            "name": manifest.name,
            "version": manifest.version,
            "path": str(path),
            "source": planned.source.name,
            "commit": planned.source.commit,
            "already": done.already,
        }
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    how = (
        "was there already"
        if done.already
        else f"{size_text(planned.total)}, licence: {_line(manifest.licence)}"
    )
    typer.echo(f"{manifest.name} {manifest.version} ({how}): {path}")


def _line(text: str) -> str:
    """Of somebody else's text, what a terminal may be given."""
    return "".join(character if character.isprintable() else " " for character in text)[:80]
