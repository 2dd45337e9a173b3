"""The process that TensorRT builds in, from its start to the engine in its place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from export.errors import ExportError
from export.tensorrt_process import draft_folder
from export.to_tensorrt import Target, build_engine
from hindsight.artifact import Artifact, load_artifact
from hindsight.engines import Bucket, Engine, engines_folder, read_engine
from tests.factories import make_tiny_artifact
from tests.unit.export.pretend import MODULE, TARGET, WHOLE, shadow, shadow_whole


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_tiny_artifact(tmp_path / "tiny")


def built(artifact: Artifact, target: Target = TARGET, **options: Any) -> Engine:
    return build_engine(artifact, target, precision="fp32", batches=[1], sizes=[(64, 96)], **options)


def test_an_engine_that_is_built_takes_the_place_of_the_one_before(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_whole(monkeypatch, tmp_path / "shadow")
    said: list[str] = []
    for batches in ([1], [1, 2]):
        engine = build_engine(
            artifact, TARGET, precision="fp32", batches=batches, sizes=[(64, 96)], progress=said.append
        )
    folder = engines_folder(artifact) / "sm89-tensorrt_rtx9.9-fp32"
    assert engine.folder == folder and list(engines_folder(artifact).iterdir()) == [folder]
    assert engine == read_engine(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["engine.json", "model.engine", "rescore.engine"]
    record = engine.record
    assert (record.gpu, record.compute_capabilities, record.precision) == ("any", ("8.9",), "fp32")
    assert record.sources == {
        name: artifact.manifest.files[name] for name in ("model.onnx", "rescore.onnx", "weights.bin")
    }
    plan = record.plan_of("model.onnx")
    assert plan is not None and plan.buckets == (Bucket(1, 64, 96), Bucket(2, 64, 96))
    assert plan.plugin_layers == 0 and record.parity is None
    one, two = json.loads((folder / "model.engine").read_text())
    assert one["images"] == [[1, 32, 32, 3], [1, 64, 96, 3], [1, 64, 96, 3]]
    assert two["score_threshold"] == [[2], [2], [2]] and "nms_threshold" not in two
    rescored = json.loads((folder / "rescore.engine").read_text())
    assert rescored[0]["boxes"] == [[1, 100, 4]] * 3
    assert "model.onnx: tactics, 1 of 2" in said and "rescore.onnx: parsing" in said
    load_artifact(artifact.path)


def test_the_folder_it_is_called_in_lends_the_builder_nothing(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_whole(monkeypatch, tmp_path / "shadow")
    for name in ("json.py", "export.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong file')")
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it may name the folder one is in
    monkeypatch.chdir(tmp_path)
    assert built(artifact).folder.is_dir()


def test_a_builder_that_falls_over_when_all_is_done_has_built(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's libraries take themselves down when a process ends, plugins in Python with them."""
    fallen = WHOLE + "import atexit\natexit.register(os.abort)\n"
    shadow_whole(monkeypatch, tmp_path / "shadow", fallen)
    assert built(artifact).folder.is_dir()


def test_what_libraries_print_is_no_matter(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = "\nos.write(1, b'\\xff\\xfe no text\\n')\n"
    shadow_whole(monkeypatch, tmp_path / "shadow", WHOLE + noise)
    assert built(artifact).folder.is_dir()


def test_an_engine_that_cannot_take_its_place_leaves_the_one_before(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_whole(monkeypatch, tmp_path / "shadow")
    before = built(artifact)
    rename = Path.rename

    def refused(self: Path, target: Path) -> Path:
        if self.name == "engine":
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(ExportError, match="No space left on device"):
        built(artifact)
    assert read_engine(before.folder) == before
    assert list(engines_folder(artifact).iterdir()) == [before.folder]


def test_a_plugin_library_that_does_not_load_is_named(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        WHOLE
        + "class Registry:\n    def load_library(self, path): return None\nget_plugin_registry = Registry\n"
    )
    shadow_whole(monkeypatch, tmp_path / "shadow", source)
    library = tmp_path / "plugins.so"
    library.write_bytes(b"")
    with pytest.raises(ExportError, match=r"does not load .*plugins\.so"):
        built(artifact, plugin_library=library)


TIMINGS = """
class Timings(bytes):
    def serialize(self): return b"timings of today"
def create_timing_cache(self, stored):
    return None if stored == b"damaged" else Timings(stored)
def set_timing_cache(self, timings, ignore_mismatch):
    if timings == b"of another GPU": return False
    self.timings = timings
    return True
Config.create_timing_cache, Config.set_timing_cache = create_timing_cache, set_timing_cache
Config.get_timing_cache = lambda self: getattr(self, "timings", None)
def build(self, network, config):
    assert config.timings in (b"", b"timings of today")
    return b"a plan"
Builder.build_serialized_network = build
"""


@pytest.mark.parametrize("stored", [None, b"damaged", b"of another GPU"])
def test_timings_are_kept_and_those_that_do_not_fit_begun_anew(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bytes | None
) -> None:
    shadow_whole(monkeypatch, tmp_path / "shadow", WHOLE + TIMINGS, "tensorrt")
    target = Target("tensorrt", "A GPU", ("8.9",), "A GPU")
    cache = engines_folder(artifact) / ".timing-a-gpu-tensorrt-any-9.9"
    if stored is not None:
        cache.parent.mkdir()
        cache.write_bytes(stored)
    assert built(artifact, target).record.flavour == "tensorrt"
    assert cache.read_bytes() == b"timings of today"


def test_timings_that_cannot_be_kept_cost_no_engine(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow_whole(monkeypatch, tmp_path / "shadow", WHOLE + TIMINGS, "tensorrt")
    (engines_folder(artifact) / ".timing-a-gpu-tensorrt-any-9.9").mkdir(parents=True)  # in the way
    said: list[str] = []
    built(artifact, Target("tensorrt", "A GPU", ("8.9",), "A GPU"), progress=said.append)
    assert any("timings are not kept" in text for text in said)


FOREVER = "import time; open(os.environ['PID_FILE'], 'w').write(str(os.getpid())); time.sleep(600)"
KILLED = """
import sys
from pathlib import Path
from export.to_tensorrt import build_engine
from hindsight.artifact import load_artifact
from tests.unit.export.pretend import TARGET
build_engine(load_artifact(Path(sys.argv[1])), TARGET, precision="fp32", batches=[1], sizes=[(64, 96)])
"""


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_builder_ends_with_its_parent_and_the_next_build_clears_up(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, pid_file = tmp_path / "slow", tmp_path / "pid"
    folder.mkdir()
    (folder / "tensorrt_rtx.py").write_text(MODULE.format(behaviour=FOREVER))
    paths = os.pathsep.join([str(folder), str(Path(__file__).parents[3])])
    environment = os.environ | {"PYTHONPATH": paths, "PID_FILE": str(pid_file)}
    parent = subprocess.Popen([sys.executable, "-c", KILLED, str(artifact.path)], env=environment)
    try:
        wait_for(lambda: pid_file.is_file() and pid_file.read_text(), 120)
        builder = int(pid_file.read_text())
        assert is_running(builder)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(lambda: not is_running(builder))
    root = engines_folder(artifact)
    (left,) = root.glob(".draft-*")
    shadow_whole(monkeypatch, tmp_path / "shadow")
    with draft_folder(root) as other:  # of a build that goes on beside
        assert not left.exists()
        built(artifact)
        assert other.is_dir()
    assert not list(root.glob(".draft-*"))


def test_a_builder_that_hangs_is_ended_and_was_heard_of(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow(monkeypatch, tmp_path / "shadow", "import time; time.sleep(600)")
    monkeypatch.setattr("export.tensorrt_process._SAY_EVERY", 0.5)
    said: list[str] = []
    with pytest.raises(ExportError, match=r"not done after 0\.05 minutes, last at 'starting'; --build"):
        built(artifact, minutes=0.05, progress=said.append)
    assert "starting (0 of at most 0.05 min)" in said
    assert not list(engines_folder(artifact).iterdir())


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = "\nimport resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (9, 9))\n"
    shadow_whole(monkeypatch, tmp_path / "shadow", WHOLE + full)
    with pytest.raises(ExportError, match=r"plan of model.onnx cannot be written \(File too large\)"):
        built(artifact)

    def refused(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refused)
    with pytest.raises(ExportError, match=r"cannot be written into .* \(No space left on device\)"):
        built(artifact)
    assert not list(engines_folder(artifact).iterdir())
