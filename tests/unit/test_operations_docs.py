"""docs/operations.md and docs/security.md name tests for what they promise; those tests are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.config import read_configuration
from service.metrics import Metrics

ROOT = Path(__file__).parents[2]
SHORT = re.compile(r"`(\w)` is\s+`(tests/[\w/]+\.py)`")
CITED = re.compile(r"(?:\b(\w):|`(tests/[\w/]+\.py)`:)((?:\s+`test_\w+`,?)+)")


@pytest.mark.parametrize("name", ["operations.md", "security.md"])
def test_every_test_that_a_page_names_is_in_the_file_it_names(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    files = dict(SHORT.findall(page))
    cited = {
        (path or files[letter], test)
        for letter, path, tests in CITED.findall(page)
        for test in re.findall(r"test_\w+", tests)
    }
    assert len(cited) >= 15
    mentioned = set(re.findall(r"\btest_\w+(?!\w*\.py)\b", re.sub(r"tests/[\w/]+\.py", "", page)))
    assert mentioned == {test for _, test in cited}, "a test is named without its file"
    missing = [f"{path}: {test}" for path, test in cited if f"def {test}(" not in (ROOT / path).read_text()]
    assert not missing


def test_the_settings_that_the_page_shows_are_legal() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    shown = re.findall(r"(?i)max[_-]queue ?[= ] ?(\d+)", page)
    assert len(shown) >= 4
    for number in shown:
        read_configuration({}, [f"max_queue={number}"], environment={})


def test_every_metric_is_in_the_documentation() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    exposed = set(re.findall(r"^# HELP (hindsight_\w+) ", Metrics().render().decode(), re.MULTILINE))
    documented = set(re.findall(r"`(hindsight_\w+)`", page))
    assert exposed == {each for each in documented if not each.endswith("_file")}
