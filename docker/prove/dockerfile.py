"""Reads a Dockerfile: the part of the language that ours are written in, and nothing else.

Whatever this does not know (an instruction, a flag, a heredoc, a form of `${...}`) raises UnknownSyntax:
a step that was silently left out would prove nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["DockerfileError", "Instruction", "Stage", "UnknownSyntax", "expand", "pairs", "parse"]


class DockerfileError(Exception):
    """The Dockerfile is wrong. One line, with the line's number."""


class UnknownSyntax(DockerfileError):
    """Legal in a Dockerfile perhaps, but not understood here."""


FLAGS: Mapping[str, frozenset[str]] = {
    "ARG": frozenset(),
    "CMD": frozenset(),
    "COPY": frozenset({"from", "chown", "chmod"}),
    "ENTRYPOINT": frozenset(),
    "ENV": frozenset(),
    "EXPOSE": frozenset(),
    "FROM": frozenset(),
    "HEALTHCHECK": frozenset({"interval", "timeout", "start-period", "retries"}),
    "LABEL": frozenset(),
    "RUN": frozenset({"mount"}),
    "STOPSIGNAL": frozenset(),
    "USER": frozenset(),
    "WORKDIR": frozenset(),
}
"""Every instruction that is understood, and its flags."""

_FLAG = re.compile(r"--([a-z-]+)(?:=(\S+))?\s+")
_VARIABLE = re.compile(r"\\(.)|\$(?:\{([A-Za-z_]\w*)(?:(:[-+])([^}]*))?\}|([A-Za-z_]\w*)|(.?))", re.DOTALL)


@dataclass(frozen=True)
class Instruction:
    """One instruction: `arguments` as written after the flags; `flags` name -> values, in order."""

    name: str
    arguments: str
    line: int
    flags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def exec_form(self) -> list[str] | None:
        """The words of `["a", "b"]`; None for the shell form."""
        if not self.arguments.startswith("["):
            return None
        try:
            words = json.loads(self.arguments)
        except ValueError:
            words = None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DockerfileError(f"line {self.line}: not a JSON list of words: {self.arguments}")
        return words

    def flag(self, name: str) -> str | None:
        """The value of a flag that may be given once."""
        values = self.flags.get(name, ())
        if len(values) > 1:
            raise DockerfileError(f"line {self.line}: --{name} is given twice")
        return values[0] if values else None

    def __str__(self) -> str:
        flags = "".join(f"--{name}={value} " for name, values in self.flags.items() for value in values)
        return f"{self.name} {flags}{self.arguments}"


@dataclass(frozen=True)
class Stage:
    """What follows one FROM. `base`: an image or an earlier stage, as written."""

    name: str
    base: str
    line: int
    instructions: tuple[Instruction, ...]


def parse(text: str) -> tuple[tuple[Instruction, ...], tuple[Stage, ...]]:
    """The ARGs before the first FROM, and the stages. Raises DockerfileError."""
    head: list[Instruction] = []
    stages: list[Stage] = []
    body: list[Instruction] = []
    for line, source in _logical_lines(text):
        instruction = _instruction(line, source)
        if instruction.name != "FROM":
            if not stages and instruction.name != "ARG":
                raise DockerfileError(f"line {line}: {instruction.name} before the first FROM")
            (body if stages else head).append(instruction)
            continue
        words = instruction.arguments.split()
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            raise DockerfileError(f"line {line}: expected FROM IMAGE [AS NAME]")
        _close(stages, body)
        name = words[2] if len(words) == 3 else str(len(stages))
        if name in {stage.name for stage in stages}:
            raise DockerfileError(f"line {line}: a second stage named {name}")
        stages.append(Stage(name, words[0], line, ()))
    if not stages:
        raise DockerfileError("there is no FROM")
    _close(stages, body)
    return tuple(head), tuple(stages)


def _close(stages: list[Stage], body: list[Instruction]) -> None:
    """What has been read since the last FROM belongs to its stage."""
    if stages:
        last = stages[-1]
        stages[-1] = Stage(last.name, last.base, last.line, tuple(body))
    body.clear()


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their continuations joined and comments gone, each with the number of its first line."""
    found: list[tuple[int, str]] = []
    parts: list[str] = []
    first = 0
    for number, raw in enumerate(text.splitlines(), start=1):
        if not found and not parts and re.match(r"#\s*escape\s*=", raw):
            raise UnknownSyntax(f"line {number}: the directive escape")
        if raw.lstrip().startswith("#") or (not raw.strip() and not parts):
            continue
        if not raw.strip():
            raise UnknownSyntax(f"line {number}: an empty line inside an instruction")
        first = first or number
        more = raw.rstrip().endswith("\\")
        parts.append(raw.rstrip()[:-1] if more else raw.rstrip())
        if not more:
            found.append((first, "".join(parts).strip()))
            parts, first = [], 0
    if parts:
        raise DockerfileError(f"line {first}: the last line ends in a backslash")
    return found


def _instruction(line: int, source: str) -> Instruction:
    name, _, rest = source.partition(" ")
    name, rest = name.upper(), rest.strip()
    if name not in FLAGS:
        raise UnknownSyntax(f"line {line}: the instruction {name}")
    if not rest:
        raise DockerfileError(f"line {line}: {name} without arguments")
    if name in {"COPY", "RUN"} and re.search(r"<<-?[\"']?\w", rest):
        raise UnknownSyntax(f"line {line}: a heredoc")
    flags: dict[str, tuple[str, ...]] = {}
    while match := _FLAG.match(rest):
        flag, value = match[1], match[2]
        if flag not in FLAGS[name] or value is None:
            raise UnknownSyntax(f"line {line}: {name} {match[0].strip()}")
        flags[flag] = (*flags.get(flag, ()), value)
        rest = rest[match.end() :]
    return Instruction(name, rest, line, flags)


def expand(text: str, variables: Mapping[str, str], line: int) -> str:
    """Replace `$NAME`, `${NAME}`, `${NAME:-default}`, `${NAME:+other}`. A name that is not set is empty, as
    in Docker.
    """

    def value(match: re.Match[str]) -> str:
        escaped, braced, operator, word, plain, odd = match.groups()
        if escaped is not None:
            return "$" if escaped == "$" else match[0]
        if odd is not None:
            raise UnknownSyntax(f"line {line}: ${odd} in {text!r}")
        found = variables.get(braced or plain, "")
        if operator == ":-":
            return found or word
        if operator == ":+":
            return word if found else ""
        return found

    return _VARIABLE.sub(value, text)


def pairs(instruction: Instruction) -> list[tuple[str, str]]:
    """The NAME=VALUE pairs of ENV, LABEL or ARG, quotes removed. `ENV NAME VALUE` is not understood."""
    found = []
    rest = instruction.arguments
    while rest:
        match = re.match(r'([\w.-]+)=("((?:[^"\\]|\\.)*)"|[^\s"\']*)(\s+|$)', rest)
        if not match:
            raise UnknownSyntax(f"line {instruction.line}: expected NAME=VALUE at {rest!r}")
        found.append((match[1], match[3].replace('\\"', '"') if match[3] is not None else match[2]))
        rest = rest[match.end() :]
    return found
