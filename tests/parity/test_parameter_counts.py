"""Parameter counts of the papers' detectors, to the unit (R50, 80 classes)."""

from __future__ import annotations

from benchmarks.detector_facts import parameter_table
from model.complexity import parameters
from model.zoo import config_of

# What class-agnostic regression saves: 80 classes' worth of 4 outputs instead of one, weights and bias.
SAVED = (80 - 1) * 4 * (1024 + 1)
BRANCH = (12544 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 + 1)


def test_counts_equal_the_papers_tables() -> None:
    table = parameter_table()
    counts = {name: row["papers_convention"] for name, row in table.items() if "papers_convention" in row}
    assert counts == {
        "faster_rcnn": 41_527_712,
        "decoupled_rcnn, one stage": 55_423_392,
        "decoupled_rcnn, three stages": 83_222_952,
    }
    for name, count in counts.items():
        assert table[name]["class_agnostic"] == count - SAVED


def test_the_localization_head_adds_two_branches() -> None:
    assert parameter_table()["hindsight (flagship)"]["localization_head_extra"] == 2 * BRANCH == 27_793_410


def test_tsd_is_faster_rcnn_and_two_branches_of_its_own() -> None:
    """The sibling is Faster R-CNN's head; each branch has two layers of 1024 and its own output."""
    trunk = (12544 * 1024 + 1024) + (1024 * 1024 + 1024)
    classifier, regressor = trunk + 81 * 1025, trunk + 4 * 80 * 1025
    bins, shift = (256 * 256 + 256) + 98 * 257, (256 * 256 + 256) + 2 * 257
    extra = (12544 * 256 + 256) + bins + shift + classifier + regressor
    assert extra == 31_571_189
    host = parameters(config_of("tsd", 80))
    assert host - parameters(config_of("faster_rcnn", 80)) == extra
    # class-agnostic regression saves in the sibling and in the branch
    assert parameters(config_of("tsd_dir", 80)) == host - 2 * SAVED + 2 * BRANCH
