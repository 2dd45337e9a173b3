"""The TensorRT runtime through the real cuda.bindings, on a GPU that is fake_gpu.cpp and a TensorRT that is
fake_tensorrt.py: what it executes is the tiny model, in ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from hindsight.artifact import Artifact
from hindsight.engines import EngineParity, engines_folder
from hindsight.errors import OptionError
from hindsight.runtime import open_runtime
from tests.unit.runtime.pretend import RECORD, add_engine, run

FAILED = EngineParity(False, 9.0, 1.0, 0.5, 100, 7, "2026-11-21T12:00:00+00:00")

AGREES = """
reference = open_runtime("onnxruntime", artifact)
runtime = opened()
assert tensorrt.registered == ["plugins"]
shapes = [(1, 64, 96), (3, 32, 64), (4, 96, 64), (11, 64, 64), (2, 64, 96)]
for turn, (count, height, width) in enumerate(shapes):
    feeds = inputs(count, height, width, turn)
    expected, found = reference.detect(feeds), runtime.detect(feeds)
    assert set(found) == set(expected) and expected["num_detections"].sum() > 0
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4, err_msg=name)
        assert found[name].dtype == values.dtype
for count, number in [(1, 4), (3, 2), (5, 9), (1, 100)]:
    feeds = inputs(count, 64, 96)
    feeds = {name: feeds[name] for name in ("images", "image_sizes")} | boxes(count, number)
    expected, found = reference.rescore(feeds), runtime.rescore(feeds)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-4, err_msg=name)
runtime.close()
assert alive() == {}, alive()
assert "closed" in message(lambda: runtime.detect(inputs(1, 64, 96)))
runtime.close()
"""


def test_it_answers_as_onnx_runtime_at_every_batch_and_size_and_frees_everything(
    fakes: Path, artifact: Artifact
) -> None:
    add_engine(artifact)
    done = run(fakes, artifact, AGREES)
    assert "has not been compared with the model yet" in done.stderr
    assert "tensorrt:fp16@cuda" in done.stderr and "--images FOLDER" in done.stderr


NO_GRAPHS = """
gpu.fake_refuse_captures(1)
runtime, reference = opened(), open_runtime("onnxruntime", artifact)
feeds = inputs(9, 64, 96)
expected, found = reference.detect(feeds), runtime.detect(feeds)
np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-4)
assert gpu.fake_alive(b"launchable") == 0
runtime.close()
assert alive() == {}, alive()
"""


STREAM = """
import random
import hindsight.runtime.tensorrt_contexts as contexts
contexts.READY_SHAPES = 3
own._WARM_UP_SECONDS = 0
reference, runtime = open_runtime("onnxruntime", artifact), opened()
assert len(tensorrt.made) == 1 and gpu.fake_alive(b"launchable") == 0  # the loose one: nothing was warmed up
used, rng = gpu.fake_memory(), random.Random(0)
shapes = [(h, w) for h in (32, 64, 96) for w in (32, 64, 96) if h * w < 96 * 96]
answers = {}

def serve(count, height, width):
    feeds = inputs(count, height, width)
    key = (count, height, width)
    if key not in answers:
        answers[key] = reference.detect(feeds)
    found = runtime.detect(feeds)
    for name, values in answers[key].items():
        np.testing.assert_allclose(found[name], values, atol=1e-4, err_msg=f"{name} of {key}")

for _ in range(300):
    before = len(tensorrt.made)
    serve(rng.choice((1, 2, 3, 4, 9)), *rng.choice(shapes))
    assert len(tensorrt.made) - before <= 1  # no request waits for more than one
assert gpu.fake_alive(b"launchable") == 3 and len(tensorrt.made) <= 6, len(tensorrt.made)
before = len(tensorrt.made)
for _ in range(20):
    serve(2, 32, 64)  # now there is one camera
assert len(tensorrt.made) <= before + 1 and gpu.fake_alive(b"launchable") == 3
assert gpu.fake_memory() == used
runtime.close()
assert alive() == {}, alive()
"""


def test_photos_of_any_shape_are_answered_right_by_few_contexts(fakes: Path, artifact: Artifact) -> None:
    add_engine(artifact)
    run(fakes, artifact, STREAM)


WARM = """
runtime = opened()
# 3 batches at 2 sizes, and the loose one
assert len(tensorrt.made) == 7 and gpu.fake_alive(b"launchable") == 6
for count in (1, 2, 4):
    for shape in ((64, 96), (96, 64)):
        runtime.detect(inputs(count, *shape))
assert len(tensorrt.made) == 7
runtime.rescore({name: inputs(1, 64, 96)[name] for name in ("images", "image_sizes")} | boxes(1, 4))
assert len(tensorrt.made) == 8  # a request does not wait for all of its buckets
runtime.close()

made = tensorrt.Engine.create_execution_context
def few(engine, strategy):
    return made(engine, strategy) if len(tensorrt.made) < 8 + 3 else None
tensorrt.Engine.create_execution_context = few
runtime, reference = opened(), open_runtime("onnxruntime", artifact)
for _ in range(4):
    feeds = inputs(4, 64, 96)
    expected, found = reference.detect(feeds), runtime.detect(feeds)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-4)
assert gpu.fake_alive(b"launchable") == 2
runtime.close()
assert alive() == {}, alive()
"""


def test_buckets_are_warmed_up_for_a_while_and_as_far_as_memory_goes(fakes: Path, artifact: Artifact) -> None:
    add_engine(artifact)
    done = run(fakes, artifact, WARM)
    assert done.stderr.count("no more than 2 shapes are made ready") == 1


def test_where_nothing_can_be_captured_it_says_so_and_answers_the_same(
    fakes: Path, artifact: Artifact
) -> None:
    add_engine(artifact)
    done = run(fakes, artifact, NO_GRAPHS)
    assert "batch 4 at 96x64: no CUDA graph (GPU 0, ending a capture: the CUDA driver says" in done.stderr


ERRORS = """
runtime = opened("tensorrt:fp16")
print(message(lambda: runtime.detect(inputs(1, 96, 96))))
print(message(lambda: runtime.detect({"images": inputs(1, 64, 96)["images"]})))
runtime.close()
print(message(lambda: opened("tensorrt:bf16")))
print(message(lambda: opened("tensorrt:int8")))
print(message(lambda: open_runtime("tensorrt", artifact, device="cuda:1")))
print(message(lambda: open_runtime("tensorrt", artifact, device="gpu")))
gpu.fake_limit_memory(150_000)
print(message(opened))
gpu.fake_limit_memory(-1)
runtime = opened()
gpu.fake_limit_memory(gpu.fake_memory() + 100_000)
feeds = {name: inputs(1, 64, 96)[name] for name in ("images", "image_sizes")} | boxes(1, 4)
print(message(lambda: runtime.rescore(feeds)))
used = gpu.fake_memory()
assert "OUT_OF_MEMORY" in message(lambda: runtime.rescore(feeds)) and gpu.fake_memory() == used
assert runtime.detect(inputs(1, 64, 96))["boxes"].shape == (1, 20, 4)
runtime.close()
gpu.fake_limit_memory(-1)
own.entry_points = lambda group: []
print(message(opened))
print(alive())
"""


def test_errors_say_what_to_do_and_leave_nothing_on_the_gpu(fakes: Path, artifact: Artifact) -> None:
    add_engine(artifact)
    done = run(fakes, artifact, ERRORS)
    shape, lacking, precision, argument, number, device, memory, rescoring, plugins, left = (
        done.stdout.splitlines()
    )
    assert "no shape for an input of 96x96, only for 64x96, 96x64" in shape and "--to tensorrt" in shape
    assert "model.onnx needs the inputs class_threshold" in lacking
    assert "in bf16; there is" in precision and "(in fp16); build it here: hindsight export" in precision
    assert argument.startswith("OptionError: runtime tensorrt takes one of fp16, bf16, fp32")
    assert number.startswith("RuntimeFailure: GPU 1, finding the GPU")
    assert device == "OptionError: device must be cuda or cuda:N, got 'gpu'"
    assert "the CUDA driver says CUDA_ERROR_OUT_OF_MEMORY" in memory
    assert "the CUDA driver says CUDA_ERROR_OUT_OF_MEMORY" in rescoring
    assert "no installed package offers our TensorRT plugins" in plugins
    assert left == "{}"


REPEATED = """
used = set()
for _ in range(20):
    runtime = opened("tensorrt:unchecked")
    runtime.detect(inputs(3, 64, 96))
    used.add(gpu.fake_memory())
    runtime.close()
    assert alive() == {} and gpu.fake_memory() == 0
print(len(used))
print(message(opened))
"""


def test_loading_and_unloading_is_flat_and_a_failed_parity_needs_unchecked(
    fakes: Path, artifact: Artifact
) -> None:
    add_engine(artifact, replace(RECORD, parity=FAILED))
    done = run(fakes, artifact, REPEATED)
    amounts, refused = done.stdout.splitlines()
    assert amounts == "1"
    assert "parity of 2026-11-21T12:00:00+00:00 failed (7 of 100 detections differ" in refused


def test_an_engine_that_carries_machine_code_needs_the_users_word(fakes: Path, artifact: Artifact) -> None:
    add_engine(artifact, replace(RECORD, plugins_embedded=True))
    program = """
print(message(opened))
runtime = opened("tensorrt:fp16,embedded")
assert tensorrt.registered == [] and tensorrt.host_code_allowed == [True]
runtime.close()
"""
    done = run(fakes, artifact, program)
    assert "carries machine code" in done.stdout and "say tensorrt:embedded" in done.stdout


def test_a_damaged_plan_is_an_error_with_tensorrts_last_words(fakes: Path, artifact: Artifact) -> None:
    add_engine(artifact)
    (folder,) = engines_folder(artifact).iterdir()
    record = json.loads((folder / "engine.json").read_text())
    (folder / "model.engine").write_bytes(b"rubbish")
    program = "print(message(opened))\nprint(alive())\n"
    done = run(fakes, artifact, program)
    assert "is not the file engine.json listed" in done.stdout, done.stderr
    record["plans"][0]["sha256"] = hashlib.sha256(b"rubbish").hexdigest()
    (folder / "engine.json").write_text(json.dumps(record))
    done = run(fakes, artifact, program)
    words, left = done.stdout.splitlines()
    assert "fp16/model.engine: the plan is damaged somewhere; build it again: hindsight export" in words
    assert left == "{}"


def test_the_cpu_is_refused_before_anything_is_imported(artifact: Artifact) -> None:
    with pytest.raises(OptionError, match="runtime tensorrt needs a GPU"):
        open_runtime("tensorrt", artifact)
