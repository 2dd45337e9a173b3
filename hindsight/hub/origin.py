"""The note beside a model that says where this machine got it from: `origin.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from hindsight.artifact import ORIGIN

__all__ = ["Origin", "read_origin", "write_origin"]


@dataclass(frozen=True)
class Origin:
    """source: as it was asked for. revision: what it is called there, if it is. commit: what that was then.
    pulled: when, as ISO 8601 has it.
    """

    source: str
    revision: str | None
    commit: str | None
    pulled: str

    def __str__(self) -> str:
        """In one line, for people."""
        commit = f"@{self.commit[:12]}" if self.commit else ""
        return f"{self.source}{commit}"


def write_origin(folder: Path, origin: Origin) -> None:
    """Raises OSError."""
    (folder / ORIGIN).write_text(json.dumps(asdict(origin), indent=2) + "\n", encoding="utf-8")


def read_origin(folder: Path) -> Origin | None:
    """None where there is no note, or none that can be read: a model is not worse for that."""
    try:
        document = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        values = {field.name: document[field.name] for field in fields(Origin)}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    named = [values.pop(name) for name in ("source", "pulled")]
    if all(isinstance(value, str) for value in named) and all(
        isinstance(value, str | None) for value in values.values()
    ):
        return Origin(named[0], values["revision"], values["commit"], named[1])
    return None
