"""A short fuzz run; the long one is benchmarks/fuzz_server.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.fuzzing import fuzz
from tests.hostile.request_mutations import make_case
from tests.hostile.vitals import assert_unharmed, vitals_of
from tests.server_process import TILES, ServerProcess, serving

CASES = int(os.environ.get("HINDSIGHT_FUZZ_CASES", "600"))
SEED = int(os.environ.get("HINDSIGHT_FUZZ_SEED", "1"))
MOST_GROWTH = 50_000_000


@pytest.fixture(scope="module")
def sleeping(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving(tmp_path_factory.mktemp("fuzzed"), "--model", str(tiny), "--backend", "sleep:1") as running:
        assert running.client.post("/detect", content=TILES).status_code == 200
        running.client.close()
        yield running


def test_a_case_can_be_sent_again() -> None:
    assert make_case(5, 17) == make_case(5, 17)
    assert len({make_case(5, index).data for index in range(50)}) > 45


def test_mutated_requests_are_answered_and_nothing_is_kept(sleeping: ServerProcess, tmp_path: Path) -> None:
    before = vitals_of(sleeping)
    report = fuzz(sleeping, SEED, range(CASES), tmp_path / "failed")
    assert report.failures == [], f"seed {SEED}; the requests are in {tmp_path / 'failed'}"
    assert report.memory_after - report.memory_before < MOST_GROWTH
    assert report.by_status["200"] and report.by_status["415"] and report.by_status["422"]
    assert_unharmed(sleeping, before)
    assert [record for record in sleeping.log() if record["level"] == "error"] == []
