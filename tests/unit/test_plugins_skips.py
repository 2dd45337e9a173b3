"""CI must fail on a skip that hides something, and only on that."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

MARKED = """
import pytest

@pytest.mark.gpu
def test_marked():
    pytest.skip("no GPU here")

def test_plain():
    pass
"""
UNMARKED = """
import pytest

def test_unmarked():
    pytest.skip("no data here")
"""
WHOLE_FILE = 'import pytest\npytest.skip("no data here", allow_module_level=True)\n'


def run(pytester: pytest.Pytester, **files: str) -> pytest.RunResult:
    pytester.makeini("[pytest]\nmarkers = gpu\n    tensorrt\n")
    pytester.makepyfile(**files)
    return pytester.runpytest_inprocess(
        "-p", "tests.plugins_skips", "-p", "no:xdist", "-p", "no:cacheprovider"
    )


def test_a_skip_with_an_allowed_marker_passes(pytester: pytest.Pytester) -> None:
    result = run(pytester, test_marked=MARKED)
    result.assert_outcomes(passed=1, skipped=1)
    assert result.ret == pytest.ExitCode.OK


def test_a_skip_without_a_marker_fails_and_is_named(pytester: pytest.Pytester) -> None:
    result = run(pytester, test_marked=MARKED, test_unmarked=UNMARKED)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*not allowed here*", "test_unmarked.py::test_unmarked"])
    result.stdout.no_fnmatch_line("test_marked.py::test_marked")


def test_a_file_that_skips_itself_fails(pytester: pytest.Pytester) -> None:
    result = run(pytester, test_marked=MARKED, test_whole=WHOLE_FILE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*not allowed here*", "test_whole.py"])
