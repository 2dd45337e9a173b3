"""`make test-gpu` must not pass on a host where nothing could run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
RUNS = """
import pytest

@pytest.mark.gpu
def test_runs():
    pass
"""
SKIPS = """
import pytest

@pytest.mark.{marker}
@pytest.mark.skipif(True, reason="needs a {marker}")
def test_skips():
    pass
"""
FAILS = RUNS.replace("pass", "assert False").replace("test_runs", "test_fails")
WHOLE_FILE = 'import pytest\npytest.skip("needs a module", allow_module_level=True)\n'


def run(pytester: pytest.Pytester, **files: str) -> pytest.RunResult:
    pytester.makeini("[pytest]\nmarkers = gpu\n    tensorrt\n")
    pytester.makepyfile(**files)
    return pytester.runpytest_inprocess(
        "-p", "tests.plugins_gpu", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "gpu or tensorrt"
    )


def test_a_run_in_which_something_ran_passes_and_names_what_did_not(pytester: pytest.Pytester) -> None:
    result = run(pytester, test_runs=RUNS, test_skips=SKIPS.format(marker="gpu"))
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["*skipped on this host: 1*", "test_skips.py::test_skips: needs a gpu"])


def test_a_run_that_only_skipped_fails(pytester: pytest.Pytester) -> None:
    result = run(pytester, test_skips=SKIPS.format(marker="gpu"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["no test marked gpu could run here*"])


def test_each_marker_counts_for_itself(pytester: pytest.Pytester) -> None:
    result = run(pytester, test_runs=RUNS, test_skips=SKIPS.format(marker="tensorrt"))
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["no test marked tensorrt could run here*"])


def test_a_file_that_skips_itself_does_not_count_as_a_run(pytester: pytest.Pytester) -> None:
    result = run(pytester, test_whole=WHOLE_FILE)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["test_whole.py: needs a module", "nothing could run here*"])


def test_a_failure_stays_one(pytester: pytest.Pytester) -> None:
    assert run(pytester, test_fails=FAILS).ret == pytest.ExitCode.TESTS_FAILED


def make(*words: str) -> str:
    assert shutil.which("make"), "the README promises make"
    # `make test` runs this: its own flags must not reach this make
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(["make", *words], cwd=ROOT, env=plain, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_make_installs_the_gpu_extras_into_an_environment_of_their_own() -> None:
    planned = make("--dry-run", "--always-make", "test-gpu")
    assert '-e ".[gpu,train,export,tensorrt,dev]"' in planned and "-c requirements/gpu.txt" in planned
    assert '.venv-gpu/bin/python -m pytest -m "gpu or tensorrt" -p tests.plugins_gpu' in planned
    assert "compute-sanitizer" not in planned and ".venv/bin" not in planned


def test_make_runs_the_kernels_under_compute_sanitizer_where_asked() -> None:
    planned = make("--dry-run", "--always-make", "test-gpu", "SANITIZE=1")
    for tool in ("memcheck", "racecheck", "synccheck"):
        assert tool in planned
    assert "compute-sanitizer --error-exitcode" in planned


def test_make_help_names_the_gpu_targets() -> None:
    listed = {line.split()[0] for line in make("help").splitlines()}
    assert {"test-gpu", "gpu-figures"} <= listed
