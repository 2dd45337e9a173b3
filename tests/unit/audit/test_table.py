"""The table that `hindsight audit` ends with, at the widths that people see it at."""

from __future__ import annotations

import io
import re
from collections import Counter

import pytest
from rich.console import Console

from hindsight.audit.command import summary_table
from hindsight.audit.judge import VERDICTS
from hindsight.audit.summary import MISSING, ClassSummary

HEADS = ["class", "boxes", "IoU", "suspicious", "loose", "cut", "shifted", "class", "object"]
HEADS += ["duplicate", MISSING]


def printed(width: int, *summaries: ClassSummary) -> list[str]:
    """The lines of the table."""
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_table("a set", summaries, console))
    stream = console.file
    assert isinstance(stream, io.StringIO)
    return stream.getvalue().splitlines()


def every_verdict(name: str) -> ClassSummary:
    return ClassSummary(name, 12345, Counter({**dict.fromkeys(VERDICTS, 1234), MISSING: 99}), [0.5])


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_word_is_broken_where_every_verdict_occurs(width: int) -> None:
    lines = printed(width, every_verdict("RBC"), every_verdict("WBC"))
    assert all(len(line) <= width for line in lines)
    words = [re.findall(r"[^\W_]+(?:\.\d+)?", line) for line in lines]
    (head,) = (row for row in words if "class" in row and "boxes" in row)
    assert head == HEADS
    assert ["median", "wrong", "no"] in words
    (row,) = (row for row in words if row[:1] == ["RBC"])
    assert row == ["RBC", "12345", "0.50", *[row[3]], *["1234"] * 6, "99"]


def test_long_names_of_classes_give_way() -> None:
    lines = printed(80, every_verdict("a class with a name of many words"))
    assert all(len(line) <= 80 for line in lines)
    assert any("suspicious" in line and "duplicate" in line for line in lines)


def test_where_there_is_room_there_are_lines_between() -> None:
    assert any("│" in line for line in printed(120, every_verdict("RBC")))
    assert not any("│" in line for line in printed(80, every_verdict("RBC")))
