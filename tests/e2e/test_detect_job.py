"""`hindsight detect --out` as a job: killed, stopped, gone on with, shared among workers, done by a server.

A named pipe among the images holds a job in the middle: whoever opens it waits until the test writes to it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hindsight.artifact import Artifact
from hindsight.commands import detect_engine
from tests.factories import encode, make_tiny_artifact, tiles_image
from tests.server_process import REPOSITORY, ServerProcess, wait_until
from tests.stub_server import BUSY, FOUND, MODELS, TINY, resets, says, stub_server

Run = Callable[..., tuple[int, str, str]]
COUNT = 12


@pytest.fixture(autouse=True)
def photos(tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """p00.png .. p11.png, each of its own brightness, so that no two have the same answer."""
    monkeypatch.setenv("HINDSIGHT_MODELS", str(tiny_artifact.path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(COUNT):
        (folder / f"p{number:02}.png").write_bytes(photo(number))
    return folder


def photo(number: int) -> bytes:
    return encode((tiles_image() * (1 - number / 40)).astype(np.uint8))


@pytest.fixture
def run(run: Run) -> Run:
    """run(*arguments) -> exit status, stdout, stderr of `hindsight detect`."""
    return lambda *arguments, model="tiny": run("detect", *arguments, "--model", model)


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """spawn(*arguments): `hindsight detect` as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "hindsight", "detect", *arguments, "--model", "tiny"]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def make_slow(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def coco(path: str = "out/detections.json") -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(path).read_text())
    return document


def journaled(path: str = "out/.hindsight-journal") -> int:
    file = Path(path)
    return file.read_bytes().count(b'"file":') if file.exists() else 0


def names(document: dict[str, Any]) -> list[str]:
    return [Path(image["file_name"]).name for image in document["images"]]


EVERY = [f"p{number:02}.png" for number in range(COUNT)]


def test_a_job_writes_one_document_and_a_summary(run: Run) -> None:
    status, out, err = run("photos", "--out", "out")
    assert (status, out) == (0, "")
    document = coco()
    assert names(document) == EVERY
    assert {row["image_id"] for row in document["annotations"]} == set(range(COUNT))
    assert set(document["annotations"][0]) == {
        "id", "image_id", "category_id", "bbox", "area", "iscrowd", "score", "class_score", "iou", "purity",
        "integrity",
    }  # fmt: skip
    boxes = len(document["annotations"])
    assert err.startswith(f"hindsight: 12 images, {boxes} boxes, none failed, in ")
    assert err.endswith("out/detections.json\n") and err.count("\n") == 1


@pytest.mark.parametrize("format_name", ["coco", "jsonl", "yolo", "labelstudio"])
def test_results_do_not_depend_on_the_workers(run: Run, format_name: str) -> None:
    (Path("photos") / "p05.png").write_text("hello")
    contents = []
    for workers in ("1", "3"):
        status, _, err = run(
            "photos", "--out", f"out{workers}", "--format", format_name, "--workers", workers
        )
        assert status == 2 and "1 failed (1 unsupported-image)" in err
        folder = Path(f"out{workers}")
        contents.append(
            {
                str(path.relative_to(folder)): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file() and path.name != ".hindsight-journal"
            }
        )
    assert contents[0] == contents[1] and contents[0]


def test_a_job_gives_what_the_table_of_this_process_gives(run: Run) -> None:
    _, alone, _ = run("photos", "--json")
    _, out, _ = run("photos", "--json", "--out", "out.jsonl", "--workers", "2")
    assert alone == out == Path("out.jsonl").read_text() and alone.count("\n") == COUNT


@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_in_the_middle_it_goes_on_and_loses_and_doubles_nothing(
    run: Run, spawn: Callable[..., subprocess.Popen[str]], photos: Path, workers: str
) -> None:
    run("photos", "--out", "whole.json", "--annotate", "whole")
    make_slow(photos / "p06.png")
    arguments = ("photos", "--out", "out", "--annotate", "drawn", "--workers", workers)
    job = spawn(*arguments)
    pipe = os.open(photos / "p06.png", os.O_WRONLY)  # a worker has come so far
    wait_until(lambda: journaled() >= 6, "the images before it")
    job.kill()
    job.communicate()
    _wait_for_nobody(pipe)
    assert not Path("out/detections.json").exists()
    done = journaled()
    assert 6 <= done < COUNT
    with Path("out/.hindsight-journal").open("ab") as stream:
        stream.write(
            b'0badc0de {"file":"photos/p06.png","st'
        )  # as if it had been cut in the middle of a line

    (photos / "p06.png").unlink()
    (photos / "p06.png").write_bytes(photo(6))
    status, _, err = run(*arguments)
    assert status == 0 and f"12 images ({done} of them before)" in err
    assert coco() == coco("whole.json")
    assert sorted(path.name for path in Path("drawn").iterdir()) == EVERY
    for name in EVERY:
        assert Path("drawn", name).read_bytes() == Path("whole", name).read_bytes()

    status, _, err = run(*arguments)
    assert status == 0 and "12 images (12 of them before)" in err
    assert coco() == coco("whole.json")


def _wait_for_nobody(pipe: int) -> None:
    """Until no process has the other end of a named pipe open: no worker outlives its job."""

    def is_alone() -> bool:
        try:
            os.write(pipe, b"x")
        except OSError as error:
            assert error.errno == errno.EPIPE
            return True
        return False

    before = signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    try:
        wait_until(is_alone, "the worker to end")
    finally:
        signal.signal(signal.SIGPIPE, before)
        os.close(pipe)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_job_that_is_stopped_says_how_to_go_on(
    spawn: Callable[..., subprocess.Popen[str]], photos: Path, run: Run, number: signal.Signals
) -> None:
    make_slow(photos / "p03.png")
    job = spawn("photos", "--out", "out", "--workers", "1")
    pipe = os.open(photos / "p03.png", os.O_WRONLY)
    wait_until(lambda: journaled() >= 3, "the images before it")
    job.send_signal(number)
    out, err = job.communicate(timeout=60)
    _wait_for_nobody(pipe)
    assert job.returncode == 128 + number and out == ""
    assert err == (
        "hindsight: stopped: 3 are done and kept in out/.hindsight-journal; "
        "run the same command again to go on\n"
    )
    (photos / "p03.png").unlink()
    (photos / "p03.png").write_bytes(photo(3))
    status, _, err = run("photos", "--out", "out")
    assert status == 0 and "(3 of them before)" in err
    assert names(coco()) == EVERY


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_before_the_first_image_it_says_so(
    spawn: Callable[..., subprocess.Popen[str]], number: signal.Signals
) -> None:
    job = spawn("-", "--out", "out")  # waits for the list
    status = Path(f"/proc/{job.pid}/status")

    def handles_them() -> bool:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt"))
        return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(handles_them, "the command to begin")
    job.send_signal(number)
    _, err = job.communicate(timeout=60)
    assert (job.returncode, err) == (128 + number, "hindsight: stopped before anything was looked at\n")
    assert not Path("out").exists()


def test_stopped_without_out_it_says_what_would_help(
    spawn: Callable[..., subprocess.Popen[str]], photos: Path
) -> None:
    make_slow(photos / "p01.png")
    job = spawn("photos", "--json")
    pipe = os.open(photos / "p01.png", os.O_WRONLY)
    job.send_signal(signal.SIGINT)
    os.close(pipe)
    out, err = job.communicate(timeout=60)
    assert job.returncode == 130 and len(out.splitlines()) == 1
    assert err.endswith("of 12; with --out a job can be gone on with\n") and "Traceback" not in err


@pytest.mark.parametrize("shown", [["--json"], []], ids=["lines", "tables"])
def test_a_reader_that_goes_away_ends_the_job_without_a_traceback(
    spawn: Callable[..., subprocess.Popen[str]], photos: Path, shown: list[str]
) -> None:
    make_slow(photos / "p03.png")
    job = spawn("photos", *shown)
    with (photos / "p03.png").open("wb") as stream:
        assert job.stdout is not None
        job.stdout.close()
        stream.write(photo(3))
    assert job.stderr is not None
    err = job.stderr.read()
    assert job.wait(60) == 128 + signal.SIGPIPE
    assert err == "hindsight: stopped after 4 of 12; with --out a job can be gone on with\n"


def test_a_worker_killed_in_the_middle_is_replaced(
    spawn: Callable[..., subprocess.Popen[str]], photos: Path, run: Run
) -> None:
    run("photos", "--out", "whole.json")
    make_slow(photos / "p06.png")
    job = spawn("photos", "--out", "out", "--workers", "2")
    pipe = os.open(photos / "p06.png", os.O_WRONLY)
    reader = _who_reads(job.pid, photos / "p06.png")
    os.kill(reader, signal.SIGKILL)
    # While one thread of it lives its end of the pipe does, and would swallow what is written.
    wait_until(lambda: not Path(f"/proc/{reader}").exists(), "the worker to be reaped")
    with (photos / "p06.png").open("wb") as stream:  # waits for another worker
        os.close(pipe)
        stream.write(photo(6))
    _, err = job.communicate(timeout=120)
    assert job.returncode == 0
    assert "photos/p06.png: the worker process ended on it (signal 9); it is tried once more" in err
    assert coco()["annotations"] == coco("whole.json")["annotations"]


def _who_reads(parent: int, file: Path) -> int:
    """The child of `parent` that has `file` open."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return next(int(child) for child in children if _has_open(int(child), file))


def _has_open(process: int, file: Path) -> bool:
    try:
        links = list(Path(f"/proc/{process}/fd").iterdir())
        return any(link.exists() and os.path.samefile(link, file) for link in links)
    except OSError:  # it has ended
        return False


def test_an_image_that_was_changed_is_done_again(run: Run, photos: Path) -> None:
    run("photos", "--out", "out")
    (photos / "p02.png").write_bytes(encode(np.zeros((96, 160, 3), np.uint8)))
    (photos / "p11.png").unlink()
    (photos / "p99.png").write_bytes(photo(20))
    status, _, err = run("photos", "--out", "out")
    assert status == 0
    assert "changed since they were done, and done again: 1 (photos/p02.png)" in err
    assert "left out of the results: 1 that a run before has done" in err
    assert "12 images (10 of them before)" in err
    run("photos", "--out", "fresh.json")
    assert coco() == coco("fresh.json")


def test_other_options_another_model_and_other_pictures_are_told(run: Run, tmp_path: Path) -> None:
    run("photos", "--out", "out")
    before = Path("out/detections.json").read_bytes()
    for extra, told in (
        (["--score-threshold", "0.9"], "score_threshold was 0.3, now 0.9."),
        (["--classes", "red"], 'classes was not given, now ["red"].'),
        (["--annotate", "drawn"], "annotate was not given, now drawn."),
        (["--stride", "2"], "video stride was 1, now 2."),
    ):
        status, _, err = run("photos", "--out", "out", *extra)
        assert status == 2 and err.count("\n") == 1
        assert (
            f"out holds the results of another job: {told} Give --restart to start over, or another --out"
            in err
        )
    make_tiny_artifact(tmp_path / "other" / "tiny", version="2")
    os.environ["HINDSIGHT_MODELS"] = str(tmp_path / "other" / "tiny")  # the fixture puts it back
    status, _, err = run("photos", "--out", "out")
    assert status == 2 and "model was tiny@1#" in err and "now tiny@2#" in err
    assert Path("out/detections.json").read_bytes() == before
    status, _, err = run("photos", "--out", "out", "--restart")
    assert status == 0 and "of them before" not in err


def test_the_same_job_in_another_format_costs_no_detection(run: Run) -> None:
    run("photos", "--out", "out")
    status, _, err = run("photos", "--out", "out", "--format", "jsonl")
    assert status == 0 and "12 images (12 of them before)" in err
    assert len(Path("out/detections.jsonl").read_text().splitlines()) == COUNT


def test_nothing_that_is_not_the_jobs_is_written_over(run: Run) -> None:
    Path("out/labels").mkdir(parents=True)
    Path("out/labels/truth.txt").write_text("0 .5 .5 .1 .1\n")
    Path("mine.json").write_text("{}")
    for arguments in (["--out", "out", "--format", "yolo"], ["--out", "mine.json"]):
        status, _, err = run("photos", *arguments)
        assert status == 2 and "is there already and was not written by this job" in err
    assert Path("out/labels/truth.txt").exists() and Path("mine.json").read_text() == "{}"
    assert not Path("out/.hindsight-journal").exists()
    status, _, _ = run("photos", "--out", "out", "--format", "coco")
    assert status == 0, "beside it there is room"
    status, _, err = run("photos", "--out", "out", "--format", "yolo")
    assert status == 2 and "labels is there already" in err


def test_bad_images_are_reported_kept_and_tried_again(run: Run, photos: Path) -> None:
    (photos / "p04.png").write_text("hello")
    status, _, err = run("photos", "nowhere.jpg", "--out", "out")
    assert status == 2
    lines = err.splitlines()
    assert len(lines) == 3 and "2 failed (2 unsupported-image)" in lines[-1]
    document = coco()
    assert document["images"][4]["problem"]["code"] == "unsupported-image"
    assert names(document) == [*EVERY, "nowhere.jpg"]
    (photos / "p04.png").write_bytes(photo(4))
    Path("nowhere.jpg").write_bytes(photo(5))
    status, _, err = run("photos", "nowhere.jpg", "--out", "out")
    assert status == 0 and "13 images (11 of them before)" in err
    assert not any("problem" in image for image in coco()["images"])


def test_a_list_on_stdin_and_a_pattern(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(b"photos/p03.png\nphotos/p01.png\n")
    with (tmp_path / "list").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        status, out, _ = run("-", "photos/p1*.png", "--json")
    assert status == 0
    assert [json.loads(line)["file"] for line in out.splitlines()] == [
        "photos/p03.png", "photos/p01.png", "photos/p10.png", "photos/p11.png",
    ]  # fmt: skip


def test_an_empty_list_and_a_closed_stdin_are_said(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "list").write_bytes(b"\n")
    with (tmp_path / "list").open() as stream:
        for stdin in (stream, None):
            monkeypatch.setattr(sys, "stdin", stdin)
            status, out, err = run("-")
            assert (status, out) == (2, "")
            assert (
                err == "hindsight: -: the list on stdin is empty; expected the name of a file on each line\n"
            )
    status, out, err = run("-", "photos/p01.png", "--json")
    assert status == 2 and out.count("\n") == 1 and "list on stdin is empty" in err


def test_folders_in_folders_and_their_annotated_pictures(run: Run, photos: Path) -> None:
    (photos / "deep").mkdir()
    (photos / "p00.png").rename(photos / "deep" / "p00.png")
    status, _, _ = run("photos", "--out", "photos/results", "--annotate", "photos/results/drawn")
    assert status == 0
    assert (photos / "results/drawn/deep/p00.png").is_file()
    status, _, err = run("photos", "--out", "photos/results", "--annotate", "photos/results/drawn")
    assert status == 0 and "12 images (12 of them before)" in err, "its own pictures are no input"
    status, out, _ = run("photos", "--no-recursive", "--json")
    assert status == 0 and out.count("\n") == COUNT - 1


def test_a_job_of_a_pattern_goes_on_beside_its_own_pictures(run: Run) -> None:
    for before in ("0", str(COUNT)):
        status, _, err = run("photos/**/*.png", "--out", "photos/results", "--annotate", "photos/drawn")
        assert status == 0 and f"{COUNT} images" in err and (before == "0" or f"({before} of them" in err)


def test_a_picture_that_was_deleted_is_drawn_again(run: Run) -> None:
    run("photos", "--out", "out", "--annotate", "drawn")
    Path("drawn/p07.png").unlink()
    status, _, err = run("photos", "--out", "out", "--annotate", "drawn")
    assert status == 0 and "(11 of them before)" in err and Path("drawn/p07.png").exists()


def test_pictures_of_others_are_never_written_over(run: Run, photos: Path) -> None:
    Path("drawn").mkdir()
    for name in ("p03.png", "p07.png"):
        Path("drawn", name).write_bytes(b"a drawing of years")
    for more in ((), ("--out", "out"), ("--workers", "2")):
        status, out, err = run("photos", "--annotate", "drawn", *more)
        assert (status, out) == (2, "") and err.count("\n") == 1
        assert "drawn/p03.png is there already and was not drawn from photos/p03.png, nor are 1 more" in err
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["p03.png", "p07.png"]
    assert not Path("out/.hindsight-journal").exists()
    status, _, err = run("photos/p03.png", "--annotate", "drawn/p03.png")
    assert status == 2 and "was not drawn from photos/p03.png: move it away" in err
    assert Path("drawn/p03.png").read_bytes() == Path("drawn/p07.png").read_bytes() == b"a drawing of years"


@pytest.mark.parametrize("more", [(), ("--out", "out"), ("--out", "out", "--restart")])
def test_pictures_of_its_own_are(run: Run, photos: Path, more: tuple[str, ...]) -> None:
    for number in range(2):
        (photos / "p02.png").write_bytes(photo(20 + number))
        status, _, _ = run("photos", "--annotate", "drawn", *more)
        assert status == 0
        with Image.open("drawn/p02.png") as drawn, Image.open(photos / "p02.png") as plain:
            assert drawn.getpixel((0, 90)) == plain.getpixel((0, 90))
            assert drawn.getpixel((40, 5)) == plain.getpixel((40, 5))
    (photos / "p02.png").rename("elsewhere.png")
    status, _, err = run("elsewhere.png", "--annotate", "drawn/p02.png")
    assert status == 2 and "drawn/p02.png is there already and was not drawn from elsewhere.png" in err


def test_a_picture_that_comes_in_between_is_left_and_costs_only_its_image(
    spawn: Callable[..., subprocess.Popen[str]], photos: Path
) -> None:
    make_slow(photos / "p03.png")
    job = spawn("photos", "--out", "out", "--annotate", "drawn", "--workers", "1")
    with (photos / "p03.png").open("wb") as stream:
        Path("drawn/p03.png").write_bytes(b"theirs")
        Path("out/detections.json").write_text("theirs")
        stream.write(photo(3))
    _, err = job.communicate(timeout=120)
    assert job.returncode == 2
    assert "drawn/p03.png was not drawn from photos/p03.png and is left as it is" in err
    assert (
        "out/detections.json was put there meanwhile, and not by this job: what was detected is kept" in err
    )
    assert Path("drawn/p03.png").read_text() == Path("out/detections.json").read_text() == "theirs"


def test_an_output_that_takes_no_more_is_one_line(spawn: Callable[..., subprocess.Popen[str]]) -> None:
    for more in (("--json",), (), ("--json", "--out", "out")):
        command = [sys.executable, "-m", "hindsight", "detect", "photos", *more, "--model", "tiny"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                command,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                check=False,
                timeout=120,
            )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(
            "hindsight: cannot write to standard output (No space left on device)\n"
        )
        assert len(done.stderr.splitlines()) == (2 if "--out" in more else 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "coco"], "--format says what --out writes"),
        (
            ["--out", "out", "--format", "voc"],
            "--format must be one of coco, jsonl, labelstudio, yolo, got 'voc'",
        ),
        (["--out", "out.json", "--format", "yolo"], "--format yolo writes a folder of text files"),
        (["--out", "out.jsonl", "--format", "coco"], "is one JSON document"),
        (["--out", "nowhere/out.json"], "--out nowhere/out.json: there is no folder nowhere"),
        (
            ["--out", "photos/p00.png/out.json"],
            "--out photos/p00.png/out.json: there is no folder photos/p00.png",
        ),
        (["--out", "n" * 300], "--out nnn"),
        (["--out", "n" * 300 + ".json"], "(File name too long)"),
        (["--annotate", "n" * 300], "must be a folder (File name too long)"),
        (["--out", "photos/p00.png"], "must be a folder"),
        (["--out", "out.csv"], "--out must be a folder, or a .json or .jsonl file, got out.csv"),
        (["--annotate", "drawn.jpg"], "--annotate drawn.jpg is a name for one file"),
        (["--server", "http://127.0.0.1:1", "--device", "cuda"], "are the server's own: leave them out"),
        (["--restart"], "--restart starts the job of --out over"),
        (["--workers", "0"], "workers must be at least 1, got 0"),
        (["--stride", "0"], "stride must be at least 1"),
        (["--fps", "0"], "fps must be above 0"),
        (["--stride", "2", "--fps", "2"], "give stride or fps, not both"),
        (["--start", "soon"], "a time is written as seconds or as [HH:]MM:SS, with"),
        (["--start", "1:99"], "with less than 60 behind a colon, got '1:99'"),
        (["--start", "10", "--end", "0:05"], "end must be behind start, got 10 s to 5 s"),
        (["--backend", "abacus"], "unknown runtime 'abacus'"),
        (["--server", "localhost"], "url must look like http"),
        (["--server", "http://127.0.0.1:1"], "no answer from http://127.0.0.1:1"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(run: Run, arguments: list[str], message: str) -> None:
    status, out, err = run("photos", *arguments)
    assert (status, out) == (2, "")
    assert message in err and len(err.splitlines()) == 1


def test_a_server_gives_the_same_results(server: ServerProcess, run: Run, photos: Path) -> None:
    (photos / "p05.png").write_text("hello")
    _, _, local = run("photos", "--out", "local.json", "--annotate", "local")
    status, _, remote = run(
        "photos", "--out", "remote.json", "--annotate", "remote", "--server", server.url, "--workers", "3"
    )
    assert (
        status == 2
        and "1 failed (1 unsupported-image)" in local
        and "1 failed (1 unsupported-image)" in remote
    )
    assert coco("local.json") == coco("remote.json")
    for picture in Path("local").iterdir():
        assert picture.read_bytes() == Path("remote", picture.name).read_bytes()


def test_a_server_gives_the_same_results_in_tiles(server: ServerProcess, run: Run, photos: Path) -> None:
    for number in range(4):
        large = np.tile((tiles_image() * (1 - number / 40)).astype(np.uint8), (3, 4, 1))
        (photos / f"p{number:02}.png").write_bytes(encode(large))
    tiles = ("--tile", "160", "--overlap", "0.1")
    for more in ((), ("--no-whole", "--max-detections", "7"), ("--classes", "red")):
        files = [f"{name}{len(more)}.json" for name in ("local", "remote")]
        for file, who in zip(files, ((), ("--server", server.url)), strict=True):
            assert run("photos", "--out", file, "--workers", "2", *tiles, *more, *who)[0] == 0
        assert coco(files[0]) == coco(files[1])
        assert any(each["image_id"] == 0 for each in coco(files[0])["annotations"])
    status, _, err = run("photos", "--out", "remote0.json", "--server", server.url, "--tile", "128")
    assert status == 2 and "tile was 160, now 128" in err
    for wrong, words in ((("--overlap", "0.2"), "give tile"), (("--tile", "5"), "at least 32")):
        status, out, err = run("photos", "--json", "--server", server.url, *wrong)
        assert (status, out) == (2, "") and words in err and err.count("\n") == 1


def test_too_many_tiles_for_a_server_fail_their_image_alone(
    server: ServerProcess, run: Run, photos: Path
) -> None:
    (photos / "p03.png").write_bytes(encode(np.zeros((1000, 1000, 3), np.uint8)))
    status, _, err = run("photos", "--out", "out", "--server", server.url, "--tile", "96")
    assert status == 2 and "11 images" not in err and f"{COUNT} images" in err and "1 failed" in err
    assert "p03.png: tile 96 with overlap 0.2 makes" in err
    (problem,) = [image["problem"] for image in coco()["images"] if "problem" in image]
    assert "ask for larger tiles" in problem["detail"]


def test_images_that_are_too_much_for_a_server_do_not_stop_the_job(run: Run, photos: Path) -> None:
    """More in a row than a server may fail; a proxy's words are not ours."""
    for number in range(COUNT, 30):
        (photos / f"p{number:02}.png").write_bytes(photo(number))
    with stub_server() as server:
        server.models = listed()
        server.script += [says(b"<html>too large</html>", 413)] * 8
        server.script += [says({"detail": "too many", "code": "service-error", "status": 413}, 413)] * 9
        server.script += [says({"detail": "odd", "code": "service-error", "status": 400}, 400)] * 8
        status, _, err = run("photos", "--server", server.url, "--out", "out", "--workers", "1")
    assert status == 2
    assert "30 images, 5 boxes, 25 failed (17 image-too-large, 8 image-error)" in err
    assert sum("problem" in image for image in coco()["images"]) == 25


def test_a_server_that_starts_anew_is_waited_for(run: Run, photos: Path) -> None:
    """Refused connections, then a server that is not ready, for longer than a few quick repeats last."""
    with stub_server() as server:
        server.models = listed()
        server.script += [resets] * 3 + [says(BUSY, 503, Retry_After="1")] * 4
        status, _, err = run("photos/p00.png", "photos/p01.png", "--server", server.url, "--out", "out",
                             "--workers", "1")  # fmt: skip
    assert status == 0 and "2 images, 2 boxes, none failed" in err


def listed() -> dict[str, Any]:
    versions = [{"version": "2", "classes": ["red", "green"], "default": True}]
    classes = [{"name": name, "colour": "#ff0000"} for name in ("red", "green")]
    return {**MODELS, "models": [{**TINY, "classes": classes, "versions": versions}]}


def test_a_server_that_knows_no_tiles_is_one_line(run: Run) -> None:
    """As one of before them answers."""
    refusal = {"title": "A parameter is invalid", "status": 422, "code": "option-error",
               "detail": "query.tile: no such parameter"}  # fmt: skip
    with stub_server() as old:
        old.models = listed()
        old.always = says(refusal, 422)
        tiled = ("photos", "--server", old.url, "--tile", "96")
        status, out, err = run(*tiled, "--json")
        assert (status, out, err) == (2, "", "hindsight: query.tile: no such parameter\n")
        status, _, err = run(*tiled, "--out", "out")
        assert status == 2 and "no such parameter" in err and "not finished: 0 are done" in err
        assert all("tile=96" in seen.target for seen in old.asked)
        assert all(float(seen.headers["x-request-timeout"]) > 200 for seen in old.asked), "tiles take long"
        old.always = says(FOUND)
        assert run("photos", "--server", old.url, "--json")[0] == 0
        assert float(old.asked[-1].headers["x-request-timeout"]) < 60


def test_a_server_without_the_model_is_one_line(server: ServerProcess, run: Run) -> None:
    status, _, err = run("photos", "--server", server.url, model="nope")
    assert status == 2 and "has no model 'nope'; it has tiny, plain, masked" in err


@pytest.mark.parametrize(
    ("status", "key", "said"),
    [
        (401, "", "{url} needs an API key: set $HINDSIGHT_API_KEY"),
        (401, "old", "{url} refuses the API key of $HINDSIGHT_API_KEY: the server's own word"),
        (403, "small", "{url} refuses the API key of $HINDSIGHT_API_KEY: the server's own word"),
    ],
)
def test_a_server_with_keys_names_the_variable_to_set(
    run: Run, monkeypatch: pytest.MonkeyPatch, status: int, key: str, said: str
) -> None:
    monkeypatch.setenv("HINDSIGHT_API_KEY", key)
    with stub_server() as server:
        server.listing = says({"detail": "the server's own word", "code": "key-required"}, status)
        done = run("photos", "--server", server.url)
        assert done == (2, "", f"hindsight: {said.format(url=server.url)}\n")


def test_an_address_with_a_path_is_told_what_it_should_be(server: ServerProcess, run: Run) -> None:
    status, out, err = run("photos", "--server", f"{server.url}/detect")
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert f"{server.url}/detect is not a server's address" in err
    assert "expected one such as http://localhost:8000" in err


def test_a_server_that_goes_away_stops_the_job_which_can_go_on(
    tmp_path: Path, tiny_artifact: Artifact, run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect_engine, "_PATIENCE", 4.0)
    (tmp_path / "server").mkdir()
    gone = ServerProcess(tmp_path / "server", "--model", str(tiny_artifact.path))
    make_slow(photos / "p02.png")
    for number in range(COUNT, 60):
        (photos / f"p{number:02}.png").write_bytes(photo(number % 20))

    def end_server() -> None:
        pipe = os.open(photos / "p02.png", os.O_WRONLY)
        gone.process.kill()
        gone.process.wait()
        os.write(pipe, photo(2))
        os.close(pipe)

    helper = threading.Thread(target=end_server, daemon=True)
    helper.start()
    status, _, err = run("photos", "--out", "out", "--server", gone.url, "--workers", "8")
    helper.join(60)
    gone.close()
    assert status == 2 and "20 in a row failed for reasons that are not theirs" in err
    assert err.endswith("run the same command again to go on\n")
    assert not Path("out/detections.json").exists()
