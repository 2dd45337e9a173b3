"""docs/papers.md lists every place that cites one of the two papers, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("model", "training", "export", "hindsight", "service")
# "DIR Eq. (1), (3)" cites two equations; "DRCNN §IV-A" a section; "DIR Table 4" a table
CITATION = re.compile(r"\b(DIR|DRCNN) (Eq\. \(\d+\)(?:, \(\d+\))*|§[\w.-]*\w|Table [\dIVX]+)")
ROW = re.compile(r"^\| ((?:DIR|DRCNN) [^|]+?) \|[^|]+\|([^|]+)\|$", re.MULTILINE)
PLACE = re.compile(r"`([\w/]+\.py)`((?:,? ?`[\w.]+`)*)")

Place = tuple[str, str, str]  # citation, file, function or class ("" = outside any)


def citations(line: str) -> list[str]:
    found = []
    for paper, where in CITATION.findall(line):
        numbers = re.findall(r"\((\d+)\)", where)
        found += [f"{paper} Eq. ({n})" for n in numbers] or [f"{paper} {where}"]
    return found


def innermost(tree: ast.Module, line: int) -> str:
    """Qualified name of the function or class around a line."""
    names: list[str] = []
    body: list[ast.stmt] = tree.body
    while True:
        inside = [
            node
            for node in body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            and node.lineno <= line <= (node.end_lineno or 0)
        ]
        if not inside:
            return ".".join(names)
        names.append(inside[0].name)
        body = inside[0].body


def places_in_code() -> set[Place]:
    places = set()
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            text = path.read_text()
            tree = ast.parse(text)
            for number, line in enumerate(text.splitlines(), start=1):
                for citation in citations(line):
                    places.add((citation, str(path.relative_to(ROOT)), innermost(tree, number)))
    return places


def places_in_index() -> set[Place]:
    places = set()
    for citation, cell in ROW.findall((ROOT / "docs" / "papers.md").read_text()):
        listed = PLACE.findall(cell)
        assert listed, f"docs/papers.md names no place for {citation}"
        for file, names in listed:
            places |= {(citation, file, name) for name in re.findall(r"`([\w.]+)`", names) or [""]}
    return places


def lines(places: set[Place]) -> list[str]:
    return [
        f"{citation}: {file} {name or '(outside any function)'}" for citation, file, name in sorted(places)
    ]


def test_every_citation_in_the_code_is_in_the_index() -> None:
    in_code = places_in_code()
    assert len(in_code) > 15
    assert lines(in_code - places_in_index()) == []


def test_every_place_in_the_index_cites_what_it_is_listed_for() -> None:
    assert lines(places_in_index() - places_in_code()) == []


def test_citations_are_read_as_written() -> None:
    text = "x (DIR Eq. (1), (3)) and DRCNN §IV-A; DIR §3.4. DIR Table 4, DRCNN Eq. (8)"
    assert citations(text) == [
        "DIR Eq. (1)",
        "DIR Eq. (3)",
        "DRCNN §IV-A",
        "DIR §3.4",
        "DIR Table 4",
        "DRCNN Eq. (8)",
    ]


def test_the_place_of_a_line_is_its_innermost_definition() -> None:
    tree = ast.parse("a = 1\nclass B:\n    c = 2\n    def d(self):\n        return 3\n")
    assert [innermost(tree, line) for line in (1, 3, 5)] == ["", "B", "B.d"]
