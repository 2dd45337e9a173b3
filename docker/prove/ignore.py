"""Which files of the repository a builder gets: .dockerignore, by Docker's rules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

__all__ = ["Ignore", "context_files"]


class Ignore:
    """The patterns of a .dockerignore. The last one that matches a path, or a folder above it, decides."""

    def __init__(self, text: str) -> None:
        self._rules: list[tuple[bool, re.Pattern[str]]] = []
        for raw in text.splitlines():
            line = raw.strip()
            if not line or raw.startswith("#"):
                continue
            excludes = not line.startswith("!")
            pattern = PurePosixPath(line.removeprefix("!").strip().strip("/")).as_posix()
            self._rules.append((excludes, re.compile(_expression(pattern))))

    def excludes(self, path: str) -> bool:
        """Whether the file `path` (relative, with slashes) stays out."""
        parts = path.split("/")
        prefixes = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        out = False
        for excludes, expression in self._rules:
            if any(expression.fullmatch(prefix) for prefix in prefixes):
                out = excludes
        return out


def context_files(root: Path, ignore: Ignore) -> Iterator[str]:
    """Relative paths of the files a builder gets, sorted. Links are an error: we have none."""
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root).as_posix()
        if relative == ".git" or relative.startswith(".git/"):
            continue
        if (path.is_file() or path.is_symlink()) and not ignore.excludes(relative):
            if path.is_symlink():
                raise ValueError(f"{relative} is a link; the build context must hold none")
            yield relative


def _expression(pattern: str) -> str:
    """A pattern as a regular expression: `**` any folders, `*` and `?` within one name, `[...]` as it is."""
    parts: list[str] = []
    rest = pattern
    while rest:
        if rest.startswith("**/"):
            parts.append("(?:.*/)?")
            rest = rest[3:]
        elif rest.startswith("**"):
            parts.append(".*")
            rest = rest[2:]
        elif rest[0] == "*":
            parts.append("[^/]*")
            rest = rest[1:]
        elif rest[0] == "?":
            parts.append("[^/]")
            rest = rest[1:]
        elif match := re.match(r"\[[^\]]+\]", rest):
            parts.append(match[0])
            rest = rest[match.end() :]
        else:
            parts.append(re.escape(rest[0]))
            rest = rest[1:]
    return "".join(parts)
