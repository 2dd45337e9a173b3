"""Half a minute of the soak's mixed traffic. Latency is not judged: other tests may keep the machine busy."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.process_memory import family, tree_pss_megabytes
from benchmarks.servers import hindsight_server
from benchmarks.soak import Soaked, conclusions, soak
from benchmarks.soak_picture import draw_soak
from hindsight.bench.samples import Sample
from tests.factories import make_tiny_artifact


def test_half_a_minute_of_mixed_traffic(tmp_path: Path) -> None:
    models = [make_tiny_artifact(tmp_path / name, name=name) for name in ("one", "two")]
    named = [option for model in models for option in ("--model", str(model.path))]
    with hindsight_server(*named, settings={"OMP_NUM_THREADS": "1"}) as server:
        assert len(family(server.pid)) >= 2  # its worker too
        seen = soak(server, models, seconds=24.0, rate=12.0, settle=4.0)
    result = conclusions(seen)
    assert result["promises"]["no unexpected error"]["kept"], result["promises"]
    assert result["promises"]["memory drift under 50 MB"]["kept"], result["memory"]
    kinds = result["kinds"]
    assert sum(kind["sent"] for kind in kinds.values()) == pytest.approx(24 * 12, rel=0.3)
    assert {"one", "two, rescore", "one, drawn", "half a photo", "text", "sizes"} <= kinds.keys()
    assert len(result["windows"]) == 9 and result["memory"]["first_third_mb"] > 20
    draw_soak(result, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 10_000


def sample(at: float, latency: float, kind: str = "sizes", outcome: str = "good") -> Sample:
    return Sample(kind, at, at, at + latency, outcome, 200, 1, 1)


def test_what_drifts_is_said() -> None:
    samples = [sample(at, 0.1 if at < 600 else 0.12) for at in range(900)]
    samples += [sample(5.0, 1.0, "a client that leaves", "gave up"), sample(6.0, 0.1, "sizes", "500")]
    samples += [sample(7.0, 0.1, "sizes", "503 busy")] * 10
    memory = [(5.0 * number, 400.0 + number) for number in range(180)]
    result = conclusions(Soaked(900.0, 2.0, 1.0, samples, memory))
    assert result["drift"]["p50_ms"] == pytest.approx(0.2)
    assert result["memory"]["drift_mb"] == 120
    kept = {name: promise["kept"] for name, promise in result["promises"].items()}
    assert not any(kept.values()) and len(kept) == 5
    assert result["promises"]["no unexpected error"]["measured"] == {"sizes: 500": 1}


def test_a_steady_server_keeps_every_promise() -> None:
    samples = [sample(at, 0.1 + 0.05 * (at % 7)) for at in range(900)]
    result = conclusions(Soaked(900.0, 2.0, 1.0, samples, [(5.0 * n, 400.0) for n in range(180)]))
    assert all(promise["kept"] for promise in result["promises"].values()), result["promises"]


def test_memory_of_a_family(tmp_path: Path) -> None:
    """A made-up /proc: 1 is the parent of 2, which is that of 3; 9 is a stranger."""
    for pid, parent, pss in ((1, 0, 1024), (2, 1, 2048), (3, 2, 512), (9, 0, 7777)):
        folder = tmp_path / str(pid)
        folder.mkdir()
        (folder / "stat").write_text(f"{pid} (a (strange) name) S {parent} 0 0\n")
        (folder / "smaps_rollup").write_text(f"00-ff ---p [rollup]\nRss: 9999 kB\nPss: {pss} kB\n")
    (tmp_path / "self").mkdir()
    assert sorted(family(1, tmp_path)) == [1, 2, 3]
    assert tree_pss_megabytes(1, tmp_path) == 3.5
