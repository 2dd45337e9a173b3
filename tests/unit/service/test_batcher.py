"""The batcher against an engine that records what it is asked to run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hindsight.artifact import Artifact
from hindsight.errors import OutOfMemory, RuntimeFailure
from service.batcher import Done
from service.errors import Busy, DeadlineExceeded, EngineUnavailable
from service.together import all_or_none
from service.work import round_nms_threshold
from tests.unit.service.bench import POISON, Bench
from tests.virtual_time import run, settle


def test_an_idle_engine_runs_a_lone_image_at_once(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact)
        done = await bench.submit(bench.work(7))
        assert done.outputs["first_pixels"][done.index] == 7
        assert bench.engine.sizes == [1]
        await bench.batcher.stop()

    run(scenario())


def test_what_waits_shares_a_batch_only_within_shape_and_nms_threshold(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda")
        first = await bench.hold_engine()
        works = [
            bench.work(1),
            bench.work(2, hw=(96, 96)),
            bench.work(3),
            bench.work(4, nms=0.6),
            bench.work(5, hw=(96, 96)),
        ]
        tasks = [bench.submit(work) for work in works]
        await settle()
        bench.engine.open.set()
        results = [await task for task in (first, *tasks)]
        assert [int(done.outputs["first_pixels"][done.index]) for done in results] == [0, 1, 2, 3, 4, 5]
        assert bench.engine.pixels == [[0], [1, 3], [2, 5], [4]]
        await bench.batcher.stop()

    run(scenario())


@pytest.mark.parametrize(("device", "largest"), [("cpu", 3), ("cuda", 8)])
def test_a_cpu_batch_holds_no_more_work_than_allowed(
    tiny_artifact: Artifact, device: str, largest: int
) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device=device, max_batch=8)
        await bench.submit(bench.work())  # measures 40 ms an image: 150 ms hold three
        first = await bench.hold_engine()
        tasks = [bench.submit(bench.work()) for _ in range(8)]
        await settle()
        bench.engine.open.set()
        await asyncio.gather(first, *tasks)
        assert max(bench.engine.sizes) == largest
        await bench.batcher.stop()

    run(scenario())


def test_one_poisonous_image_fails_alone(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda")
        first = await bench.hold_engine()
        tasks = [bench.submit(bench.work(value)) for value in (1, POISON, 3)]
        await settle()
        bench.engine.open.set()
        await first
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[1], RuntimeFailure)
        assert [isinstance(outcome, Done) for outcome in outcomes] == [True, False, True]
        await bench.batcher.stop()

    run(scenario())


def test_clients_that_left_are_skipped_when_a_failed_batch_is_retried(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda")
        poisonous, left, waiting = await bench.hold_batch(POISON, 2, 3)
        left.cancel()
        await settle()
        bench.engine.open.set()
        with pytest.raises(RuntimeFailure):
            await poisonous
        assert isinstance(await waiting, Done)
        assert bench.engine.pixels == [[POISON, 2, 3], [POISON], [3]]
        await bench.batcher.stop()

    run(scenario())


def test_a_stop_during_a_retry_answers_the_whole_batch(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda")
        tasks = await bench.hold_batch(POISON, 2, 3)
        holds_the_batch, bench.engine.open = bench.engine.open, asyncio.Event()
        holds_the_batch.set()
        await settle()
        assert bench.engine.sizes == [3, 1]  # the batch failed, the first retry is held
        await bench.batcher.stop()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [EngineUnavailable] * 3

    run(scenario())


def test_large_batches_that_fail_are_halved_not_run_one_by_one(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda", max_batch=16)
        tasks = await bench.hold_batch(*range(20, 30), POISON, *range(31, 36))
        bench.engine.open.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, Done)] == [10]
        assert isinstance(outcomes[10], RuntimeFailure)
        assert bench.engine.sizes == [16, 8, 8, 4, 2, 2, 1, 1, 4]
        values = [
            int(done.outputs["first_pixels"][done.index]) for done in outcomes if isinstance(done, Done)
        ]
        assert values == [*range(20, 30), *range(31, 36)]
        await bench.batcher.stop()

    run(scenario())


def test_what_does_not_fit_is_halved_remembered_and_tried_again_later(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda", max_batch=8)
        bench.engine.room = 2
        await bench.run_behind_one(*range(1, 9))
        assert bench.engine.sizes == [1, 8, 4, 2, 2, 4, 2, 2]
        assert (
            bench.metrics.registry.get_sample_value("hindsight_out_of_memory_total", {"device": "cuda"}) == 3
        )

        bench.engine.calls.clear()
        await bench.run_behind_one(*range(1, 9))
        assert bench.engine.sizes == [1, 2, 2, 2, 2]  # nothing failed again

        bench.engine.room = 1000  # another tenant of the GPU has left
        sizes = []
        for _ in range(3):
            await asyncio.sleep(40)
            bench.engine.calls.clear()
            await bench.run_behind_one(*range(1, 9))
            sizes.append(max(bench.engine.sizes))
        assert sizes == [4, 8, 8]
        await bench.batcher.stop()

    run(scenario())


def test_a_single_image_that_does_not_fit_says_so(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, device="cuda")
        bench.engine.room = 0
        with pytest.raises(OutOfMemory):
            await bench.submit(bench.work(1))
        await bench.batcher.stop()

    run(scenario())


def test_what_cannot_be_done_in_time_is_not_begun_while_others_wait(tiny_artifact: Artifact) -> None:
    async def scenario(others: int, executed: list[list[int]]) -> None:
        bench = Bench(tiny_artifact)
        bench.engine.seconds_each = 1.0
        await bench.submit(bench.work(1))
        first = bench.submit(bench.work(2))
        tight = bench.submit(bench.work(3), seconds=2.5)  # enough, as things look now
        behind = [bench.submit(bench.work(4)) for _ in range(others)]
        bench.engine.seconds_each = 2.0
        outcomes = await asyncio.gather(first, tight, *behind, return_exceptions=True)
        assert bench.engine.pixels == executed
        assert isinstance(outcomes[1], DeadlineExceeded) == bool(others)
        assert bench.dropped("deadline") == bool(others)
        await bench.batcher.stop()

    run(scenario(1, [[1], [2], [4]]))
    run(scenario(0, [[1], [2], [3]]))  # nobody would gain, and the estimate may be wrong


def test_past_its_deadline_an_image_is_dropped_unexecuted(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact)
        first = await bench.hold_engine()
        with pytest.raises(DeadlineExceeded):
            await bench.submit(bench.work(9), seconds=1)
        bench.engine.open.set()
        await first
        await settle()
        assert bench.engine.sizes == [1]
        await bench.batcher.stop()

    run(scenario())


def test_a_cancelled_image_leaves_the_queue_and_its_place(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact, max_queue=1, max_images=1)
        first = await bench.hold_engine()
        task = bench.submit(bench.work(9))
        await settle()
        with pytest.raises(Busy):
            bench.admit(client="another")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        [slot] = bench.admit()
        slot.release()
        slot.release()  # twice gives one place back
        assert len(bench.admit()) == 1
        with pytest.raises(Busy):
            bench.admit(client="another")
        bench.engine.open.set()
        await first
        assert bench.engine.sizes == [1] and bench.dropped("disconnected") == 1
        await bench.batcher.stop()

    run(scenario())


def test_a_neighbour_of_what_failed_is_no_client_that_left(tiny_artifact: Artifact) -> None:
    """Tiles of an image and images of a KServe request fail together. Each has a shape of its own here."""

    async def scenario(*, leaves: bool) -> None:
        bench = Bench(tiny_artifact)
        first = await bench.hold_engine()
        slots = bench.admit(5)
        values = [POISON, 2, 3, 4, 5]
        works = [bench.work(value, hw=(64, 32 * place)) for place, value in enumerate(values, 1)]
        submitted = [bench.batcher.submit(work, slot) for work, slot in zip(works, slots, strict=True)]
        task = asyncio.create_task(all_or_none(slots, submitted))
        await settle()
        if leaves:
            task.cancel()
        bench.engine.open.set()
        await first
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError if leaves else RuntimeFailure)
        dropped = {reason: bench.dropped(reason) for reason in ("disconnected", "request_failed")}
        ran = len(bench.engine.sizes) - 1
        assert dropped == ({"disconnected": 5, "request_failed": 0} if leaves else
                           {"disconnected": 0, "request_failed": 5 - ran})  # fmt: skip
        assert ran < 4
        await bench.batcher.stop()

    run(scenario(leaves=False))
    run(scenario(leaves=True))


def test_when_the_only_worker_is_lost_nobody_waits_in_silence(tiny_artifact: Artifact) -> None:
    async def scenario() -> None:
        bench = Bench(tiny_artifact)
        first = await bench.hold_engine()
        task = bench.submit(bench.work())
        await settle()
        bench.engine.lose()
        with pytest.raises(EngineUnavailable):
            await task
        with pytest.raises(EngineUnavailable):
            bench.admit()
        bench.engine.open.set()
        await first
        bench.engine.ready.set()
        assert isinstance(await bench.submit(bench.work()), Done)
        await bench.batcher.stop()

    run(scenario())


def test_who_comes_after_the_stop_is_told_at_once(tiny_artifact: Artifact) -> None:
    """An image may have been with the decoders when the server was told to stop at once."""

    async def scenario() -> None:
        bench = Bench(tiny_artifact)
        [slot] = bench.admit(seconds=60)
        await bench.batcher.stop()
        start = bench.clock()
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await bench.batcher.submit(bench.work(), slot)
        with pytest.raises(EngineUnavailable, match="shutting down"):
            bench.admit()
        assert bench.clock() == start and not bench.batcher.ready

    run(scenario())


@pytest.mark.parametrize(
    ("given", "used"), [(0.5, 0.5), (0.512, 0.5), (0.53, 0.55), (0.01, 0.05), (1.0, 1.0), (0.999, 1.0)]
)
def test_nms_thresholds_meet_on_a_grid(given: float, used: float) -> None:
    assert round_nms_threshold(given) == used


def test_every_file_of_the_service_is_importable_without_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys, service.app, service.worker, service.cli; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
