"""A pytest plugin for CI: a skipped test fails the run unless it is marked `gpu` or `tensorrt`.

Switched on with `PYTEST_ADDOPTS="-p tests.plugins_skips"`. On a user's machine a test may skip for want of
the data sets; CI has them, so there a skip hides something. A file that skips itself while it is
being imported carries no marker and always counts.
"""

from __future__ import annotations

import pytest

ALLOWED_MARKERS = frozenset({"gpu", "tensorrt"})
_unexpected = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_unexpected] = []
    config.pluginmanager.register(_SkipRecorder(config), "hindsight-skip-recorder")


class _SkipRecorder:
    """Collects skips where the results arrive: in the one process, or in xdist's controller."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._is_worker = hasattr(config, "workerinput")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        is_expected_failure = hasattr(report, "wasxfail")
        if report.skipped and not is_expected_failure and ALLOWED_MARKERS.isdisjoint(report.keywords):
            self._config.stash[_unexpected].append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.skipped:
            self._config.stash[_unexpected].append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if (
            not self._is_worker
            and self._config.stash[_unexpected]
            and session.exitstatus == pytest.ExitCode.OK
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        skipped = self._config.stash[_unexpected]
        if skipped:
            terminalreporter.section("skipped without the gpu or tensorrt marker: not allowed here", red=True)
            for nodeid in skipped:
                terminalreporter.line(nodeid)
