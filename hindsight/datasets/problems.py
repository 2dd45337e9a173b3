"""What can be wrong with a data set, said with file and line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hindsight.errors import HindsightError

MAX_LISTED = 20


@dataclass(frozen=True)
class Problem:
    """One bad entry. `line` is 1-based; None where the format gives none."""

    file: Path
    line: int | None
    message: str

    def __str__(self) -> str:
        place = str(self.file) if self.line is None else f"{self.file}:{self.line}"
        # A file's name need not be text; what is said of it must be.
        return f"{place}: {self.message}".encode("utf-8", "backslashreplace").decode()


class DatasetError(HindsightError):
    """The set cannot be used as it is. `str(error)` is one line; `report()` lists the entries."""

    code = "dataset-error"

    def __init__(self, message: str, problems: Sequence[Problem] = (), headline: str | None = None) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        self._headline = headline or message

    @classmethod
    def from_problems(cls, path: Path, problems: Sequence[Problem]) -> DatasetError:
        count = len(problems)
        entries = "1 bad entry" if count == 1 else f"{count} bad entries"
        advice = "(correct them, or go on without them: --skip-bad)"
        return cls(
            f"{path}: {entries}, the first: {problems[0]} {advice}",
            problems,
            headline=f"{path}: {entries} {advice}",
        )

    def report(self, limit: int = MAX_LISTED) -> str:
        """A headline, then up to `limit` problems a line each, then how many more there are."""
        lines = [str(problem) for problem in self.problems[:limit]]
        if len(self.problems) > limit:
            lines.append(f"... and {len(self.problems) - limit} more")
        return "\n".join([self._headline, *lines])
