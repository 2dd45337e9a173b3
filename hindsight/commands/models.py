"""`hindsight models`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from hindsight.artifact import DEFAULT_MODEL, Artifact, load_artifact, scan_artifacts
from hindsight.commands.console import BAD_INPUT, complain, fail, output
from hindsight.errors import ArtifactError
from hindsight.hub.origin import read_origin
from hindsight.repository import ModelRepository

__all__ = ["models"]

_SHOWN_METRICS = ("AP", "AP50", "AP75")


def models(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON list on stdout instead of a table.")
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--models",
            "--model-repository",
            help="List this folder instead, as hindsight serve --models reads it: every version, the "
            "newest first.",
        ),
    ] = None,
) -> None:
    """List the models that can be used by name: those of $HINDSIGHT_MODELS, then those that were pulled, then
    the shipped ones; of several versions the newest.
    """
    found: list[tuple[str, Artifact]] = []
    bad = False
    try:
        every = list(_by_name() if folder is None else _stored(folder))
    except ArtifactError as error:
        fail(str(error))
    for name, artifact in every:
        if isinstance(artifact, Artifact):
            found.append((name, artifact))
        else:
            complain(str(artifact))
            bad = True
    if as_json:
        typer.echo(json.dumps([_record(*each) for each in found], indent=2, ensure_ascii=False))
    else:
        output().print(_table(found, default=DEFAULT_MODEL if folder is None else None))
    if bad:
        raise typer.Exit(BAD_INPUT)


def _by_name() -> Iterator[tuple[str, Artifact | ArtifactError]]:
    """What `find_artifact` finds, by the name of its folder."""
    return scan_artifacts()


def _stored(folder: Path) -> Iterator[tuple[str, Artifact | ArtifactError]]:
    """What a repository holds. Raises ArtifactError where it cannot be read at all."""
    for stored in ModelRepository(folder).scan():
        if stored.problem is not None:
            yield stored.name, ArtifactError(stored.problem)
        else:
            yield stored.name, load_artifact(stored.path, verify=False)


def _record(name: str, artifact: Artifact) -> dict[str, Any]:
    manifest, origin = artifact.manifest, read_origin(artifact.path)
    return {
        "name": name,
        "version": manifest.version,
        "description": manifest.description,
        "classes": list(manifest.class_names),
        "has_localization": manifest.has_localization,
        "metrics": manifest.metrics,
        "licence": manifest.licence,
        "path": str(artifact.path),
        "origin": None if origin is None else asdict(origin),
    }


def _table(found: list[tuple[str, Artifact]], default: str | None) -> Table:
    origins = [read_origin(artifact.path) for _, artifact in found]
    pulled = ["from"] if any(origins) else []
    table = Table()
    for name in ("model", "version", "classes", "second opinion", *_SHOWN_METRICS, "path", *pulled):
        table.add_column(name, overflow="fold")  # half a path is of no use
    for (name, artifact), origin in zip(found, origins, strict=True):
        manifest = artifact.manifest
        table.add_row(
            Text(name + (" (default)" if name == default else "")),
            Text(manifest.version),
            Text(", ".join(manifest.class_names)),
            "yes" if manifest.has_localization else "no",
            *(_metric(manifest.metrics.get(key)) for key in _SHOWN_METRICS),
            Text(str(artifact.path)),
            *(Text("" if origin is None else str(origin)) for _ in pulled),
        )
    return table


def _metric(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"
