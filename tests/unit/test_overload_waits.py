"""The table of how long a request may wait is what the simulation gave."""

from __future__ import annotations

from benchmarks.overload_waits import PAGE, RESULT, WAITS, block, blocks
from benchmarks.readme import keep_page


def test_the_page_shows_the_committed_result() -> None:
    assert RESULT.is_file() and keep_page(PAGE, blocks, "", ["--check"]) == 0


def test_a_row_has_a_figure_for_each_wait() -> None:
    shares = {f"{wait:g}": 0.5 for wait in WAITS}
    shown = block({"goodput_by_longest_wait": {"at once": shares, "politely": shares}, "most": 0.94})
    assert shown.count(" 50 ") == 2 * len(WAITS) and "94 is all there is" in shown
