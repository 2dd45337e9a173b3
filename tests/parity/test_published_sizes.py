"""Every size that the papers print: our parameters to its last digit, our multiply-adds within .5 %."""

from __future__ import annotations

from functools import cache

import pytest

from model.complexity import multiply_adds, parameters
from model.config import DetectorConfig
from training.published.recipes import missing, recipe_for, with_inference
from training.published.rows import Row, load_table

CLASSES = 80
TABLES = ("drcnn:table8", "drcnn:table9", "drcnn:table10", "drcnn:table11")
# The paper's tool leaves deformable convolutions out of its count, and its 18 offset channels are v1's:
# our v2 has 27 and is counted whole.
DEFORMABLE = "DCNv2"
# A test stage before the last: the paper prints what the whole cascade costs, we run what is asked for.
EARLY = ("box 1 class 1", "box 2 class 1")
# The paper quotes 98.86 M for TSD with ResNet-101: the architecture that TSD's own paper describes has this
# many, and nothing that it leaves open explains the difference.
UNEXPLAINED = {"TSD": 92_091_029}


def sized_rows() -> list[Row]:
    rows = [row for table in TABLES for row in load_table(table).rows]
    return [row for row in rows if missing(row) is None and row.expected.get("params") is not None]


@cache
def sizes(config: DetectorConfig) -> tuple[int, int]:
    return parameters(config), multiply_adds(config)


def config_of_row(row: Row) -> DetectorConfig:
    return with_inference(recipe_for(row).detector_config(CLASSES), row.inference)


@pytest.mark.parametrize("row", sized_rows(), ids=str)
def test_a_row_is_as_large_as_the_paper_says(row: Row) -> None:
    millions, giga = row.expected["params"], row.expected["GFLOPs"]
    assert millions is not None and giga is not None
    count, operations = sizes(config_of_row(row))
    if row.label in UNEXPLAINED:
        assert count == UNEXPLAINED[row.label]
        return
    if row.label.startswith(DEFORMABLE):
        assert millions < count / 1e6 < millions * 1.03
        assert operations / 1e9 > giga
        return
    assert count / 1e6 == pytest.approx(millions, abs=0.0051)
    if row.label.endswith(EARLY):
        assert operations / 1e9 < giga
        return
    assert operations / 1e9 == pytest.approx(giga, rel=0.005)


def test_the_rows_are_there() -> None:
    assert len(sized_rows()) >= 35
