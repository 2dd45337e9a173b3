"""The TensorRT runtime where a GPU fails for good, files change under it, or libraries are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hindsight.artifact import Artifact
from tests.unit.runtime.pretend import ROOT, add_engine, run

LOST = """
runtime = opened()
runtime.detect(inputs(1, 64, 96))
gpu.fake_break(700)
print(message(lambda: runtime.detect(inputs(1, 64, 96))))
print(message(lambda: runtime.detect(inputs(1, 32, 64))))
gpu.fake_break(2)
print(message(lambda: runtime.detect(inputs(1, 64, 96))))
gpu.fake_break(0)
runtime.close()
print(alive())
gpu.fake_break(700)
print(message(opened))
"""


def test_a_gpu_in_error_for_good_is_told_from_one_that_lacks_memory(fakes: Path, artifact: Artifact) -> None:
    """The server starts another process for the one, and goes on after the other."""
    add_engine(artifact)
    done = run(fakes, artifact, LOST)
    lost, lost_too, memory, left, again = done.stdout.splitlines()
    assert lost.startswith("DeviceLost: GPU 0, copying to the GPU") and "ILLEGAL_ADDRESS" in lost
    assert lost_too.startswith("DeviceLost: ")
    assert memory.startswith("OutOfMemory: ") and "OUT_OF_MEMORY" in memory
    assert left == "{}"
    assert again.startswith("DeviceLost: GPU 0, making a stream")  # not what freeing gives


RTX = """
import weakref
from types import SimpleNamespace as Names

made, configs, asked = tensorrt.Engine.create_execution_context, [], []

class Config:
    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

def create_runtime_config(engine):
    config = Config()
    configs.append(weakref.ref(config))
    return config

def create_execution_context(engine, config):
    asked.append(config.dynamic_shapes_kernel_specialization_strategy)
    return made(engine, config.strategy)

tensorrt.DynamicShapesKernelSpecializationStrategy = Names(EAGER="at once", NONE="never")
tensorrt.Engine.create_runtime_config = create_runtime_config
tensorrt.Engine.create_execution_context = create_execution_context
runtime = opened()
assert runtime.detect(inputs(1, 64, 96))["boxes"].shape == (1, 20, 4)
assert len(configs) == 2 and all(config() is not None for config in configs)
assert asked == ["never", *["at once"] * 6]  # the loose one waits for no compiler
runtime.close()
assert alive() == {} and not any(config() for config in configs)
"""


def test_what_rtx_makes_contexts_with_lives_as_long_as_they(fakes: Path, artifact: Artifact) -> None:
    """A context may ask for it later: TensorRT leaves it to whoever made it."""
    add_engine(artifact)
    run(fakes, artifact, RTX)


REBUILT = """
runtime = opened()
feeds = {name: inputs(1, 64, 96)[name] for name in ("images", "image_sizes")} | boxes(1, 4)
(folder,) = (artifact.path / "engines").iterdir()
(folder / "rescore.engine").write_bytes((folder / "model.engine").read_bytes())
print(message(lambda: runtime.rescore(feeds)))
runtime.close()
print(alive())
"""


def test_a_plan_that_was_changed_after_the_start_is_not_loaded(fakes: Path, artifact: Artifact) -> None:
    add_engine(artifact)
    done = run(fakes, artifact, REBUILT)
    refused, left = done.stdout.splitlines()
    assert "rescore.engine is not the file engine.json listed" in refused and left == "{}"


def test_the_log_of_tensorrt_is_one_for_the_process(fakes: Path, artifact: Artifact) -> None:
    """TensorRT keeps the first that it is given, for all that comes after."""
    add_engine(artifact)
    program = """
loggers = []
make = tensorrt.Runtime.__init__
def spied(self, logger):
    loggers.append(logger)
    make(self, logger)
tensorrt.Runtime.__init__ = spied
for _ in range(2):
    runtime = opened()
    runtime.rescore({name: inputs(1, 64, 96)[name] for name in ("images", "image_sizes")} | boxes(1, 4))
    runtime.close()
assert len(loggers) == 4 and len(set(map(id, loggers))) == 1
"""
    run(fakes, artifact, program)


def test_a_tensorrt_that_lacks_a_library_is_an_error(artifact: Artifact, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise FileNotFoundError('Could not find: libnvinfer.so.10')")
    program = """
import sys
from pathlib import Path
from hindsight.artifact import load_artifact
from hindsight.errors import RuntimeFailure
from hindsight.runtime import open_runtime
try:
    open_runtime("tensorrt", load_artifact(Path(sys.argv[1])), device="cuda")
except RuntimeFailure as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(artifact.path)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout == "tensorrt cannot be imported: Could not find: libnvinfer.so.10\n", done.stderr


REFUSED = """
gpu.fake_refuse_captures(1)
runtime = opened()

words = ["OutOfMemory (Requested size was 9 bytes.)", "no kernel image\\nfor this GPU"]

def execute(context, stream):
    own._logger(tensorrt).log(tensorrt.ILogger.ERROR, words.pop())
    return False

executed = tensorrt.Context.execute_async_v3
tensorrt.Context.execute_async_v3 = execute
print(message(lambda: runtime.detect(inputs(1, 64, 96))))
print(message(lambda: runtime.detect(inputs(1, 64, 96))))
tensorrt.Context.execute_async_v3 = executed
assert runtime.detect(inputs(1, 64, 96))["boxes"].shape == (1, 20, 4)
runtime.close()
"""


def test_an_execution_that_tensorrt_refuses_is_told_with_its_last_words(
    fakes: Path, artifact: Artifact
) -> None:
    add_engine(artifact)
    done = run(fakes, artifact, REFUSED)
    assert done.stdout == (
        "RuntimeFailure: model.engine: TensorRT does not execute it: no kernel image for this GPU\n"
        "OutOfMemory: model.engine: TensorRT does not execute it: OutOfMemory (Requested size was 9 bytes.)\n"
    )


GIVEN_UP = """
executed = tensorrt.Context.execute_async_v3

def execute(context, stream):
    return len(context._calls) == 0 and executed(context, stream)  # the first run alone: no capture

tensorrt.Context.execute_async_v3 = execute
runtime = opened()
assert gpu.fake_alive(b"graph") == 0 and gpu.fake_alive(b"launchable") == 0
runtime.close()
print(alive())
"""


def test_a_capture_that_tensorrt_gives_up_leaves_no_graph(fakes: Path, artifact: Artifact) -> None:
    add_engine(artifact)
    done = run(fakes, artifact, GIVEN_UP)
    assert done.stdout == "{}\n"
    assert "no CUDA graph (model.engine: TensorRT does not execute it)" in done.stderr


HALF_DONE = """
enqueued, executed = [], []
make = tensorrt._FUNCTION

def noting(execute):
    def run(argument):
        executed.append(1)
        execute(argument)
    return make(run)

tensorrt._FUNCTION = noting
gpu.fake_refuse_captures(1)
runtime, reference = opened(), open_runtime("onnxruntime", artifact)
execute = tensorrt.Context.execute_async_v3
executed.clear()

def refuse_the_second(context, stream):
    enqueued.append(1)
    return len(enqueued) != 2 and execute(context, stream)

tensorrt.Context.execute_async_v3 = refuse_the_second
print(message(lambda: runtime.detect(inputs(9, 64, 96))))
print(len(executed))  # the first part of the batch has run to its end
feeds = inputs(3, 32, 64)
expected, found = reference.detect(feeds), runtime.detect(feeds)
np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-4)
runtime.close()
"""


def test_nothing_of_a_failed_batch_is_under_way_when_the_next_one_comes(
    fakes: Path, artifact: Artifact
) -> None:
    """It would read the next one's inputs while they are being filled in, in a layout that is not theirs."""
    add_engine(artifact)
    done = run(fakes, artifact, HALF_DONE)
    refused, executed = done.stdout.splitlines()
    assert "TensorRT does not execute it" in refused and executed == "1"


ONE_PLACE = """
import gc, weakref
import hindsight.runtime.tensorrt_contexts as contexts

contexts.READY_SHAPES = 1
own._WARM_UP_SECONDS = 0
make, known, beside = tensorrt.Engine.create_execution_context, [], []

def counted(engine, strategy):
    gc.collect()  # the fake's contexts refer to themselves
    beside.append(sum(reference() is not None for reference in known))
    context = make(engine, strategy)
    tensorrt.made.clear()
    known.append(weakref.ref(context))
    return context

tensorrt.Engine.create_execution_context = counted
runtime = opened()
for _ in range(2):
    runtime.detect(inputs(1, 64, 96))
for _ in range(17):
    runtime.detect(inputs(1, 32, 64))
print(beside)
runtime.close()
"""


def test_a_context_is_gone_before_another_takes_its_place(fakes: Path, artifact: Artifact) -> None:
    """Where memory is short there is no room for both, and fewer shapes would be kept ready from then on."""
    add_engine(artifact)
    done = run(fakes, artifact, ONE_PLACE)
    # the loose one alone; the loose one beside the first; the loose one beside the second
    assert done.stdout == "[0, 1, 1]\n"
