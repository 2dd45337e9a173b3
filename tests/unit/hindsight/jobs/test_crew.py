"""Worker processes: real ones, killed in the middle of an image.

A named pipe stands for an image that takes long: whoever opens it waits until a test writes to it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hindsight.artifact import Artifact
from hindsight.errors import ArtifactError, ModelNotFound, OptionError, RuntimeFailure
from hindsight.jobs.crew import Crew
from hindsight.jobs.work import Reply, Task, Window
from hindsight.jobs.worker import WorkerSpec
from tests.factories import encode, make_tiny_artifact, tiles_image
from tests.server_process import wait_until

TILES = encode(tiles_image())


def spec_of(artifact: Artifact, **changes: object) -> WorkerSpec:
    fields: dict[str, object] = {
        "folder": str(artifact.path), "identity": artifact.identity, "backend": "onnxruntime",
        "device": "cpu", "threads": 1, "options": {},
    }  # fmt: skip
    return WorkerSpec(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.fixture
def hire(tiny_artifact: Artifact) -> Iterator[Callable[..., Crew]]:
    crews: list[Crew] = []

    def make(workers: int = 1, report: Callable[[str], None] = print, **changes: object) -> Crew:
        crews.append(Crew(spec_of(tiny_artifact, **changes), workers, report))
        return crews[-1]

    yield make
    for crew in crews:
        crew.close()


def photo(folder: Path, name: str) -> str:
    (folder / name).write_bytes(TILES)
    return str(folder / name)


def pipe(folder: Path, name: str = "slow.png") -> str:
    os.mkfifo(folder / name)
    return str(folder / name)


def by_number(replies: Iterator[Reply]) -> dict[int, Reply]:
    found: dict[int, Reply] = {}
    for reply in replies:
        assert reply.task.number not in found, "answered twice"
        found[reply.task.number] = reply
    return found


def background(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_every_task_is_answered_once_by_several_workers(hire: Callable[..., Crew], tmp_path: Path) -> None:
    files = [photo(tmp_path, f"{number}.png") for number in range(30)]
    tasks = [Task(number, file) for number, file in enumerate(files)]
    tasks.append(Task(30, "frame", pixels=tiles_image()))
    replies = by_number(hire(3).replies(iter(tasks)))
    assert sorted(replies) == list(range(31))
    for reply in replies.values():
        assert reply.size == (160, 96) and reply.problem is None
        assert reply.detections is not None and [row["label"] for row in reply.detections] == ["red", "green"]


def test_a_worker_killed_in_the_middle_is_replaced_and_its_image_done(
    hire: Callable[..., Crew], tmp_path: Path
) -> None:
    said: list[str] = []
    crew = hire(1, said.append)
    slow = pipe(tmp_path)

    def interfere() -> None:
        opened = os.open(slow, os.O_WRONLY)  # waits for the worker
        end(crew.pids[0])
        os.close(opened)
        with open(slow, "wb") as stream:  # waits for its successor
            stream.write(TILES)

    helper = background(interfere)
    before, after = photo(tmp_path, "a.png"), photo(tmp_path, "b.png")
    replies = by_number(crew.replies(iter([Task(0, before), Task(1, slow), Task(2, after)])))
    helper.join(60)
    assert [reply.problem for reply in replies.values()] == [None] * 3
    assert len(replies) == 3
    assert said == [f"{slow}: the worker process ended on it (signal 9); it is tried once more"]


def test_an_image_that_ends_its_worker_twice_fails_and_the_rest_is_done(
    hire: Callable[..., Crew], tmp_path: Path
) -> None:
    said: list[str] = []
    crew = hire(1, said.append)
    slow = pipe(tmp_path)

    def interfere() -> None:
        for _ in range(2):
            opened = os.open(slow, os.O_WRONLY)
            end(crew.pids[0])
            os.close(opened)

    helper = background(interfere)
    replies = by_number(crew.replies(iter([Task(0, slow), Task(1, photo(tmp_path, "b.png"))])))
    helper.join(60)
    problem = replies[0].problem
    assert problem is not None and problem.code == "worker-died"
    assert problem.detail == f"{slow}: 2 worker processes ended on it (signal 9)"
    assert replies[1].problem is None


def end(pid: int) -> None:
    """Kill it. Its end of the pipe is closed when its last thread has ended, and only then is it reaped."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the worker to be reaped")


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] not in "ZX"
    except (OSError, IndexError):
        return False


def test_a_worker_that_says_nothing_for_too_long_is_replaced(tiny_artifact: Artifact, tmp_path: Path) -> None:
    said: list[str] = []
    crew = Crew(spec_of(tiny_artifact), 1, said.append, patience=3)
    slow = pipe(tmp_path)

    def feed_the_second() -> None:
        first = os.open(slow, os.O_WRONLY)  # the first worker waits for bytes that do not come
        silent = crew.pids[0]
        wait_until(lambda: not _runs(silent), "the first worker to be ended")
        os.close(first)
        with open(slow, "wb") as stream:
            stream.write(TILES)

    helper = background(feed_the_second)
    try:
        replies = by_number(crew.replies(iter([Task(0, photo(tmp_path, "a.png")), Task(1, slow)])))
    finally:
        crew.close()
    helper.join(60)
    assert said == [f"{slow}: the worker process ended on it (no answer for too long); it is tried once more"]
    assert [replies[number].problem for number in (0, 1)] == [None, None]


def test_a_bad_image_is_its_own_problem(hire: Callable[..., Crew], tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_text("hello")
    bad = str(tmp_path / "bad.jpg")
    replies = by_number(hire().replies(iter([Task(0, bad), Task(1, photo(tmp_path, "a.png"))])))
    problem = replies[0].problem
    assert problem is not None and problem.code == "unsupported-image"
    assert problem.detail.startswith(f"{bad}: the data does not start like an image")
    assert replies[1].problem is None


def test_a_model_that_does_not_load_ends_the_job_with_its_reason(
    tmp_path: Path, tiny_artifact: Artifact
) -> None:
    artifact = make_tiny_artifact(tmp_path / "broken")
    (artifact.path / "weights.bin").write_bytes(b"1234")
    for spec, kind in (
        (spec_of(artifact), ArtifactError),
        (spec_of(tiny_artifact, identity="tiny@1#other"), ArtifactError),
        (spec_of(tiny_artifact, device="abacus"), OptionError),
    ):
        crew = Crew(spec, 2, print)
        try:
            with pytest.raises(kind):
                next(crew.replies(iter([Task(0, "a.png")])))
        finally:
            crew.close()


def _die_early(connection: object, spec: str) -> None:
    os._exit(7)


def test_workers_that_die_before_they_are_up_end_the_job(
    tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hindsight.jobs.crew.worker_main", _die_early)
    crew = Crew(spec_of(tiny_artifact), 1, print)
    try:
        with pytest.raises(
            RuntimeFailure, match=r"worker processes end before they are up \(exit status 7\)"
        ):
            next(crew.replies(iter([Task(0, "a.png")])))
    finally:
        crew.close()


def test_without_a_task_no_process_is_started(hire: Callable[..., Crew]) -> None:
    crew = hire(2)
    assert list(crew.replies(iter([]))) == []
    assert crew.pids == []


def test_closing_ends_every_process(hire: Callable[..., Crew], tmp_path: Path) -> None:
    crew = hire(2)
    next(crew.replies(iter([Task(0, photo(tmp_path, "a.png")), Task(1, pipe(tmp_path))])))
    pids = crew.pids
    assert len(pids) == 2
    crew.close()
    assert not any(_runs(pid) for pid in pids)


def test_the_window_keeps_the_fastest_near_the_slowest() -> None:
    window = Window((Task(number, "a") for number in range(10)), 3)
    taken = [window.next() for _ in range(5)]
    assert [None if task is None else task.number for task in taken] == [0, 1, 2, None, None]
    first, second = taken[:2]
    assert first is not None and second is not None
    window.done(second)
    assert window.next() is None, "the oldest is still under way"
    window.give_back(first)
    assert window.next() is first, "it comes before all new ones"
    window.done(first)
    following = [window.next() for _ in range(3)]
    assert [None if task is None else task.number for task in following] == [3, 4, None]


def test_a_named_model_that_is_not_there_is_told_early() -> None:
    from hindsight.commands.detect_engine import Choice, local_team

    with pytest.raises(ModelNotFound):
        local_team(Choice("nope", "onnxruntime", "cpu", 2, 1, {}), pictures=1, kept=True)
