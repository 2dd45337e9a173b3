"""`hindsight models`."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from hindsight.artifact import DEFAULT_MODEL, Artifact, scan_artifacts
from hindsight.commands.console import BAD_INPUT, complain, output

__all__ = ["models"]

_SHOWN_METRICS = ("AP", "AP50", "AP75")


def models(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON list on stdout instead of a table.")
    ] = False,
) -> None:
    """List the models that can be used by name: those of $HINDSIGHT_MODELS, then the shipped ones."""
    found: list[Artifact] = []
    bad = False
    for _, artifact in scan_artifacts():
        if isinstance(artifact, Artifact):
            found.append(artifact)
        else:
            complain(str(artifact))
            bad = True
    if as_json:
        typer.echo(json.dumps([_record(artifact) for artifact in found], indent=2, ensure_ascii=False))
    else:
        output().print(_table(found))
    if bad:
        raise typer.Exit(BAD_INPUT)


def _record(artifact: Artifact) -> dict[str, Any]:
    manifest = artifact.manifest
    return {
        "name": artifact.path.name,
        "version": manifest.version,
        "description": manifest.description,
        "classes": list(manifest.class_names),
        "has_localization": manifest.has_localization,
        "metrics": manifest.metrics,
        "licence": manifest.licence,
        "path": str(artifact.path),
    }


def _table(found: list[Artifact]) -> Table:
    table = Table("model", "version", "classes", "second opinion", *_SHOWN_METRICS, "path")
    for artifact in found:
        manifest, name = artifact.manifest, artifact.path.name
        table.add_row(
            Text(name + (" (default)" if name == DEFAULT_MODEL else "")),
            Text(manifest.version),
            Text(", ".join(manifest.class_names)),
            "yes" if manifest.has_localization else "no",
            *(_metric(manifest.metrics.get(key)) for key in _SHOWN_METRICS),
            Text(str(artifact.path)),
        )
    return table


def _metric(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) and not isinstance(value, bool) else "-"
