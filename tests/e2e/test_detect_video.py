"""`hindsight detect` on videos: what the library says of each frame's pixels, and nothing lost by a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hindsight
from hindsight.artifact import Artifact
from hindsight.jobs.entries import Entry
from hindsight.jobs.film import Film
from hindsight.manifest import ClassInfo
from hindsight.video import Sampling, read_frames
from hindsight.video_writer import VideoWriter
from tests.factories import encode, make_tiny_artifact, tiles_image
from tests.server_process import REPOSITORY, ServerProcess, wait_until

Run = Callable[..., tuple[int, str, str]]
FRAMES = 20


@pytest.fixture(autouse=True)
def clip(tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """20 frames in 2 seconds that grow darker, so that no two have the same answer."""
    monkeypatch.setenv("HINDSIGHT_MODELS", str(tiny_artifact.path))
    monkeypatch.chdir(tmp_path)
    with VideoWriter(tmp_path / "clip.mp4") as writer:
        for number in range(FRAMES):
            writer.write((tiles_image() * (1 - number / 40)).astype(np.uint8), number / 10)
    return Path("clip.mp4")


@pytest.fixture
def run(run: Run) -> Run:
    return lambda *arguments, model="tiny": run("detect", *arguments, "--model", model)


def answers(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_frames_answer_is_that_of_detect_on_its_pixels(
    run: Run, clip: Path, tiny_artifact: Artifact
) -> None:
    status, out, err = run("clip.mp4", "--json", "--stride", "3")
    assert (status, err) == (0, "")
    lines = answers(out)
    with hindsight.load(tiny_artifact.path) as detector:
        for line, frame in zip(lines, read_frames(clip, Sampling(stride=3)), strict=True):
            assert (line["file"], line["frame"], line["timestamp"]) == (
                "clip.mp4",
                frame.number,
                frame.timestamp,
            )
            assert line["detections"] == detector.detect(frame.image).to_records()
            assert line["detections"]
    assert [line["frame"] for line in lines] == [0, 3, 6, 9, 12, 15, 18]
    assert lines[1]["timestamp"] == pytest.approx(0.3)


def test_workers_and_a_server_give_the_same(run: Run, server: ServerProcess) -> None:
    _, alone, _ = run("clip.mp4", "--json")
    for number, more in enumerate((["--workers", "3"], ["--server", server.url])):
        status, _, err = run("clip.mp4", "--out", f"{number}.jsonl", *more)
        assert status == 0 and f"{FRAMES} frames" in err
        assert Path(f"{number}.jsonl").read_text() == alone


def test_images_and_videos_go_into_one_document(run: Run) -> None:
    Path("a.png").write_bytes(encode(tiles_image()))
    status, _, err = run("a.png", "clip.mp4", "a.png", "--fps", "2", "--out", "out", "--workers", "2")
    assert status == 0 and "1 image and 4 frames" in err
    document = json.loads(Path("out/detections.json").read_text())
    assert [image["file_name"] for image in document["images"]] == [
        "a.png", "clip.mp4#0", "clip.mp4#5", "clip.mp4#10", "clip.mp4#15",
    ]  # fmt: skip
    assert document["images"][2]["frame_id"] == 5 and document["videos"] == [
        {"id": 1, "file_name": "clip.mp4"}
    ]


def test_an_annotated_video_shows_the_boxes_at_their_times(run: Run) -> None:
    status, _, _ = run("clip.mp4", "--fps", "5", "--annotate", "drawn.mp4", "--out", "out")
    assert status == 0
    drawn = list(read_frames("drawn.mp4"))
    assert [frame.timestamp for frame in drawn] == pytest.approx(
        [number / 5 for number in range(10)], abs=0.002
    )
    red = np.array([0xD6, 0x27, 0x28], np.int64)
    plain = next(read_frames("clip.mp4")).image
    edge = (slice(30, 32), slice(36, 60))  # the lower edge of the red tile's box
    assert abs(drawn[0].image[edge].reshape(-1, 3).mean(axis=0) - red).max() < 60
    assert abs(plain[edge].reshape(-1, 3).mean(axis=0) - red).max() > 30
    status, _, _ = run("clip.mp4", "--annotate", "folder")
    assert status == 0 and Path("folder/clip.mp4").exists()


def test_a_video_of_somebody_elses_is_never_written_over(run: Run, clip: Path) -> None:
    Path("drawn.mp4").write_bytes(clip.read_bytes())
    for more in ((), ("--out", "out")):
        status, out, err = run("clip.mp4", "--annotate", "drawn.mp4", "--fps", "5", *more)
        assert (status, out) == (2, "") and err.count("\n") == 1
        assert "drawn.mp4 is there already and was not drawn from clip.mp4: move it away" in err
    assert Path("drawn.mp4").read_bytes() == clip.read_bytes()
    Path("drawn.mp4").unlink()
    for fps in ("5", "2"):  # its own is
        assert run("clip.mp4", "--annotate", "drawn.mp4", "--fps", fps)[0] == 0
        assert len(list(read_frames("drawn.mp4"))) == 2 * int(fps)


def test_a_video_that_comes_in_between_is_left(tmp_path: Path) -> None:
    target = tmp_path / "drawn.mp4"
    film = Film("clip.mp4", target, (ClassInfo("red", "#ff0000"),), print)
    film.add(Entry("clip.mp4", None, 0, 0.0, (160, 96), detections=[]), tiles_image())
    target.write_bytes(b"theirs")
    problem = film.end()
    assert problem is not None and "drawn.mp4 was put there meanwhile and is left as it is" in problem.detail
    assert target.read_bytes() == b"theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "drawn.mp4"]


def test_killed_in_the_middle_of_a_video_it_goes_on(run: Run, clip: Path) -> None:
    """A named pipe holds the job behind the video; its journal is then cut in the middle of the video."""
    os.mkfifo("slow.png")
    arguments = ("clip.mp4", "slow.png", "--out", "out", "--annotate", "drawn", "--workers", "1")
    command = [sys.executable, "-m", "hindsight", "detect", *arguments, "--model", "tiny"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), *sys.path])}
    job = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    pipe = os.open("slow.png", os.O_WRONLY)
    journal = Path("out/.hindsight-journal")
    wait_until(lambda: journal.read_bytes().count(b'"frame":') == FRAMES, "the frames before it")
    job.send_signal(signal.SIGKILL)
    job.communicate()
    os.close(pipe)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:9]) + lines[9][:50])
    Path("slow.png").unlink()
    Path("slow.png").write_bytes(encode(tiles_image()))
    Path("drawn/clip.mp4").unlink(missing_ok=True)

    status, _, err = run(*arguments)
    assert status == 0 and f"1 image and {FRAMES} frames (8 of them before)" in err
    run("clip.mp4", "slow.png", "--out", "whole.json", "--annotate", "whole")
    assert json.loads(Path("out/detections.json").read_text()) == json.loads(Path("whole.json").read_text())
    for one, other in zip(read_frames("drawn/clip.mp4"), read_frames("whole/clip.mp4"), strict=True):
        assert (one.image == other.image).all(), "frames of before and of now are drawn alike"
    status, _, err = run(*arguments)
    assert status == 0 and f"1 image and {FRAMES} frames (21 of them before)" in err

    journal.write_bytes(journal.read_bytes().replace(b'"frame":13', b'"frame":19', 1))  # its checksum tells
    status, _, err = run(*arguments)
    assert status == 0 and "1 damaged line" in err and f"{FRAMES} frames (20 of them before)" in err
    assert json.loads(Path("out/detections.json").read_text()) == json.loads(Path("whole.json").read_text())


def test_masks_are_drawn_alike_by_a_job_that_goes_on(run: Run, tmp_path: Path) -> None:
    artifact = make_tiny_artifact(tmp_path / "masked", name="masked", masks=True)
    arguments = ("clip.mp4", "--out", "out", "--annotate", "drawn.mp4", "--stride", "5")
    assert run(*arguments, model=str(artifact.path))[0] == 0
    before = [frame.image for frame in read_frames("drawn.mp4")]
    Path("drawn.mp4").unlink()
    status, _, err = run(*arguments, model=str(artifact.path))
    assert status == 0 and "4 frames (4 of them before)" in err
    for one, other in zip(before, read_frames("drawn.mp4"), strict=True):
        assert abs(one.astype(int) - other.image).mean() < 1


def test_a_video_cut_short_gives_what_is_there_and_status_2(run: Run, clip: Path) -> None:
    with VideoWriter(Path("long.mkv")) as writer:
        for number in range(60):
            writer.write(np.roll(tiles_image(), number * 5, axis=1), number / 10)
    content = Path("long.mkv").read_bytes()
    Path("long.mkv").write_bytes(content[: len(content) // 2])
    status, _, err = run("long.mkv", "clip.mp4", "--out", "out")
    assert status == 2
    assert (
        "long.mkv: it ends at" in err
        and "the file is cut short" in err
        and "1 failed (1 incomplete-video)" in err
    )
    document = json.loads(Path("out/detections.json").read_text())
    of_long = [image for image in document["images"] if image.get("video_id") == 1]
    assert 10 <= len(of_long) < 60 and len(document["images"]) == len(of_long) + FRAMES
    assert document["videos"][0]["problem"]["code"] == "incomplete-video"


def test_what_is_no_video_does_not_stop_the_rest(run: Run) -> None:
    Path("bad.mp4").write_text("hello")
    status, out, err = run("bad.mp4", "clip.mp4", "nowhere.mkv", "--json", "--stride", "10")
    assert status == 2 and [line["frame"] for line in answers(out)] == [0, 10]
    assert [line.split(":")[1].strip() for line in err.splitlines()] == ["bad.mp4", "nowhere.mkv"]


def test_a_folder_leaves_videos_out_and_says_how_to_take_them(run: Run) -> None:
    Path("media").mkdir()
    Path("clip.mp4").rename("media/clip.mp4")
    Path("media/a.png").write_bytes(encode(tiles_image()))
    status, out, err = run("media", "--json")
    assert status == 0 and [line["file"] for line in answers(out)] == ["media/a.png"]
    assert "1 video in this folder left out; a pattern such as 'media/*.mp4' takes them" in err
    status, out, _ = run("media/*", "--json")
    assert status == 0 and len(answers(out)) == 1 + FRAMES


def test_without_the_extra_it_is_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    status, out, err = run("clip.mp4", "--json")
    assert (status, out) == (2, "") and len(err.splitlines()) == 1
    assert "videos need PyAV" in err and 'pip install ".[video]"' in err


def test_label_studio_takes_no_videos(run: Run) -> None:
    status, _, err = run("clip.mp4", "--out", "out", "--format", "labelstudio")
    assert status == 2 and "its tasks are images" in err


def test_a_video_that_is_none_and_one_that_ends_before_the_start(run: Run) -> None:
    Path("text.mp4").write_text("hello")
    status, out, err = run("text.mp4", "--json")
    assert (status, out) == (2, "") and err.startswith(
        "hindsight: text.mp4: this is no video, or its beginning"
    )
    status, out, err = run("clip.mp4", "--json", "--start", "10")
    assert (status, out) == (0, "")
    assert err == "hindsight: clip.mp4: nothing to look at: it has no frame between --start and --end\n"
