"""What the documents name is there: files, headings, commands and their options, variables, modules."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

from service.settings import Settings

ROOT = Path(__file__).parents[2]
PARTS = ("hindsight", "model", "training", "export", "service", "docker", "benchmarks", "tests", "examples")
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for part in ("docs", *PARTS) for page in (ROOT / part).rglob("*.md"))]
)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MADE = {"docker/.env", "benchmarks/results/operators-GPU.json"}  # by the reader; a name with a gap in it
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMMANDS = PROJECT["entry-points"]["hindsight.commands"]

of_pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def code(page: Path) -> list[str]:
    """What is set as code: spans, and the lines of blocks, of which those that go on are one."""
    text = page.read_text(encoding="utf-8")
    blocks = [block.replace("\\\n", " ").splitlines()[1:-1] for block in FENCE.findall(text)]
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCE.sub("", text))]
    return [line for block in blocks for line in block] + spans


def headings(page: Path) -> set[str]:
    """The anchors that GitHub makes of them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@of_pages
def test_every_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in headings(target), link


@of_pages
def test_every_file_that_is_named_is_there(page: Path) -> None:
    named = re.compile(rf"(?:{'|'.join(PARTS)}|docs)/[\w./-]*[\w/]")
    for span in code(page):
        if named.fullmatch(span) and span not in MADE:
            assert (ROOT / span).exists(), span


@of_pages
def test_every_command_takes_what_it_is_given(page: Path) -> None:
    for line in code(page):
        for name, rest in re.findall(r"(?<![\w./-])hindsight ([a-z]+)\b([^|;&#]*)", line):
            assert name in COMMANDS, line
            command = command_called(name)
            if (inner := getattr(command, "commands", None)) is not None and (first := rest.split()[:1]):
                assert first[0] in inner, line
                command = inner[first[0]]
            known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
            for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest):
                assert option in known | {"--help"}, f"{option} in: {line}"


@of_pages
def test_every_variable_and_module_is_there(page: Path) -> None:
    for line in code(page):
        for name in re.findall(r"\bHINDSIGHT_[A-Z_]*[A-Z]\b", line):
            setting = name.removeprefix("HINDSIGHT_").lower()
            known = setting in Settings.model_fields or name in variables()
            assert known, name
        for name in re.findall(rf"-m ((?:{'|'.join(PARTS)})[\w.]*)", line):
            assert find_spec(name) is not None, name


@cache
def variables() -> set[str]:
    """Those that are no settings of the server, as the programs and docker's files read them."""
    files = [file for part in PARTS if part != "tests" for file in (ROOT / part).rglob("*.py")]
    files += (ROOT / "docker").glob("*.yaml")
    return {name for file in files for name in re.findall(r"\bHINDSIGHT_[A-Z_]*[A-Z]\b", file.read_text())}


@cache
def command_called(name: str) -> Any:
    module, _, function = COMMANDS[name].partition(":")
    found = getattr(import_module(module), function)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    app = typer.Typer()
    app.command()(found)
    return typer.main.get_command(app)
