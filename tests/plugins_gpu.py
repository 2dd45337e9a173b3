"""A pytest plugin for GPU hosts: a run in which no test of a marker could run proves nothing, so it fails.

`make test-gpu` switches it on with `-p tests.plugins_gpu`. Tests marked `gpu` or `tensorrt` skip themselves
where they cannot run; here that must not look like success. What was skipped is listed with its reason.
"""

from __future__ import annotations

import pytest

MARKERS = ("gpu", "tensorrt")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_GpuRuns(), "hindsight-gpu-runs")


class _GpuRuns:
    """Counts, by marker, the tests that ran and those that skipped themselves."""

    def __init__(self) -> None:
        self.ran = dict.fromkeys(MARKERS, 0)
        self.skipped: dict[str, str] = {}  # node id -> why
        self.skipped_of = dict.fromkeys(MARKERS, 0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        own = [marker for marker in MARKERS if marker in report.keywords]
        if report.skipped and not hasattr(report, "wasxfail"):
            self.skipped[report.nodeid] = _reason(report)
            for marker in own:
                self.skipped_of[marker] += 1
        elif report.when == "call":
            for marker in own:
                self.ran[marker] += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A file that skips itself while it is imported has no markers to count by."""
        if report.skipped:
            self.skipped[report.nodeid] = _reason(report)

    def _without_a_run(self) -> list[str]:
        return [marker for marker in MARKERS if self.skipped_of[marker] and not self.ran[marker]]

    def _nothing_ran(self) -> bool:
        return bool(self.skipped) and not any(self.ran.values())

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        passed = session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if passed and (self._without_a_run() or self._nothing_ran()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.skipped:
            terminalreporter.section(f"skipped on this host: {len(self.skipped)}")
            for nodeid, reason in self.skipped.items():
                terminalreporter.line(f"{nodeid}: {reason}")
        for marker in self._without_a_run():
            terminalreporter.line(f"no test marked {marker} could run here: that is a failure", red=True)
        if self._nothing_ran() and not self._without_a_run():
            terminalreporter.line("nothing could run here: that is a failure", red=True)


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The skip's own words; pytest keeps (file, line, "Skipped: ...")."""
    where = report.longrepr
    text = str(where[2]) if isinstance(where, tuple) else str(where)
    return text.removeprefix("Skipped: ").replace("\n", " ")
