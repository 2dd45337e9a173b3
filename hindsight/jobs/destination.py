"""Where the results of a job go, and what must not be written over there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hindsight.errors import OptionError
from hindsight.jobs.journal import JobError, Journal
from hindsight.jobs.marks import clear_way
from hindsight.jobs.outputs import FORMATS, output_names
from hindsight.jobs.sources import JOURNAL_NAME

__all__ = ["Destination"]

# Names of files that nobody means for a folder; a dot alone says little: results-0.2.
_OTHER_FILES = frozenset({".csv", ".html", ".jpg", ".jpeg", ".png", ".tsv", ".txt", ".xml", ".yaml", ".zip"})


@dataclass(frozen=True)
class Destination:
    """Where a job's results go. given: as it was named. file: None for a folder of them."""

    given: Path
    folder: Path
    file: Path | None
    format: str

    @classmethod
    def of(cls, out: Path | None, format_name: str | None) -> Destination | None:
        """From --out and --format. Raises OptionError where they do not fit."""
        if out is None:
            if format_name is not None:
                raise OptionError("--format says what --out writes: give --out FOLDER, or --out FILE.json")
            return None
        if format_name is not None and format_name not in FORMATS:
            raise OptionError(f"--format must be one of {', '.join(FORMATS)}, got {format_name!r}")
        is_file = out.suffix.lower() in (".json", ".jsonl") and not os.path.isdir(out)
        lines = out.suffix.lower() == ".jsonl"
        chosen = format_name or ("jsonl" if is_file and lines else "coco")
        if out.suffix.lower() in _OTHER_FILES and not os.path.isdir(out):
            raise OptionError(f"--out must be a folder, or a .json or .jsonl file, got {out}")
        if not is_file:
            return cls(out, out, None, chosen)
        if chosen == "yolo":
            raise OptionError(f"--format yolo writes a folder of text files: give --out FOLDER, got {out}")
        if lines and chosen != "jsonl":
            raise OptionError(
                f"--format {chosen} is one JSON document: give it a name that ends in .json, got {out}"
            )
        return cls(out, out.parent, out, chosen)

    @property
    def journal(self) -> Path:
        """Where its journal lies."""
        if self.file is None:
            return self.folder / JOURNAL_NAME
        return self.folder / f".{self.file.name}{JOURNAL_NAME}"

    @property
    def names(self) -> tuple[str, ...]:
        """What it writes into its folder."""
        return output_names(self.format, self.file)

    def open(self, job: dict[str, Any], targets: Mapping[Path, Path], *, restart: bool) -> Journal:
        """The job's journal. targets: source -> what will be drawn of it. Raises JobError, and OptionError
        where the place cannot be written, or something lies there that is not the job's.
        """
        if self.file is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OptionError(
                    f"--out {self.given} must be a folder, and cannot be made one ({error.strerror})"
                ) from error
        elif not os.path.isdir(self.folder):
            raise OptionError(f"--out {self.given}: there is no folder {self.folder}")
        journal = self._open_journal(job, restart)
        try:
            self._check(journal, targets)
        except OptionError:
            journal.close()
            if journal.is_new:
                self.journal.unlink()
            raise
        return journal

    def _open_journal(self, job: dict[str, Any], restart: bool) -> Journal:
        is_there = os.path.lexists(self.journal)
        try:
            return Journal.open(self.journal, job, restart=restart)
        except JobError as error:
            if is_there or not isinstance(error.__cause__, OSError):
                raise
            # Nobody knows of the journal yet, and nothing is in it.
            with contextlib.suppress(OSError):
                self.journal.unlink()
            reason = error.__cause__.strerror
            raise OptionError(f"--out {self.given}: cannot write into {self.folder} ({reason})") from error

    def _check(self, journal: Journal, targets: Mapping[Path, Path]) -> None:
        for name in self.names:
            if os.path.lexists(self.folder / name) and name not in journal.written:
                raise OptionError(
                    f"--out: {self.folder / name} is there already and was not written by this job: "
                    "move it away, or give another --out"
                )
        entries = journal.entries.values()
        clear_way(targets, {entry.drawn: entry.file for entry in entries if entry.drawn is not None})
