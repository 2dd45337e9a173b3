"""Parameter counts of the papers' detectors, to the unit (R50, 80 classes; DRCNN Table IV)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from model.config import DetectorConfig
from model.detector import TwoStageDetector
from model.zoo import config_of


def trained_parameters(config: DetectorConfig) -> int:
    """The papers' convention: stem and first stage are frozen and not counted."""
    with torch.device("meta"):  # shapes only: initialising 83 million weights takes seconds
        return count(TwoStageDetector(config))


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def papers(name: str, **options: object) -> DetectorConfig:
    """Class-specific regression at the first stage, as the released code has it."""
    config = config_of(name, 80, **options)
    return replace(config, head=replace(config.head, class_specific_first=True))


def ours(name: str, **options: object) -> DetectorConfig:
    """Class-agnostic at every stage, our default."""
    config = config_of(name, 80, **options)
    return replace(config, head=replace(config.head, class_specific_first=False))


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("faster_rcnn", {}, 41_527_712),
        ("decoupled_rcnn", {"stages": 1}, 55_423_392),
        ("decoupled_rcnn", {"stages": 3}, 83_222_952),
    ],
)
def test_counts_equal_the_papers_table(name: str, options: dict[str, object], expected: int) -> None:
    assert trained_parameters(papers(name, **options)) == expected


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("faster_rcnn", {}, 41_527_712 - 316 * 1025),
        ("decoupled_rcnn", {"stages": 1}, 55_423_392 - 316 * 1025),
        ("decoupled_rcnn", {"stages": 3}, 83_222_952 - 316 * 1025),
    ],
)
def test_class_agnostic_regression_saves_316_outputs(
    name: str, options: dict[str, object], expected: int
) -> None:
    assert trained_parameters(ours(name, **options)) == expected


def test_the_localization_head_adds_two_branches() -> None:
    branch = (12544 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 + 1)
    extra = trained_parameters(config_of("hindsight", 80)) - trained_parameters(
        ours("decoupled_rcnn", stages=3)
    )
    assert extra == 2 * branch == 27_793_410
