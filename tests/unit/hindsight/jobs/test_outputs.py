"""The files of a whole job, made of its journal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hindsight.api import Detector, load
from hindsight.artifact import Artifact
from hindsight.jobs.entries import Entry, Problem
from hindsight.jobs.journal import JobError, Journal
from hindsight.jobs.outputs import Model, Results, json_line, output_names, write_outputs
from service.formats import to_coco, to_labelstudio
from tests.factories import tiles_image

MODEL = Model("tiny", "1", ("red", "green", "blue"))
PROBLEM = Problem("corrupt-image", "bad.jpg: it is broken")


@pytest.fixture(scope="module")
def detector(tiny_artifact: Artifact) -> Iterator[Detector]:
    with load(tiny_artifact.path) as opened:
        yield opened


@pytest.fixture
def results(tmp_path: Path, detector: Detector) -> Iterator[Results]:
    """Two images with different answers, a broken one between them, three frames of a video."""
    journal = Journal.open(tmp_path / "journal", {})
    small, large = (detector.detect(tiles_image(*hw)) for hw in ((96, 160), (192, 320)))
    entries = [
        Entry("b.jpg", (1, 1), size=(160, 96), boxes=2, detections=small.to_records()),
        Entry("bad.jpg", (1, 1), problem=PROBLEM),
        Entry("a.jpg", (1, 1), size=(320, 192), boxes=2, detections=large.to_records()),
        *(
            Entry("clip.mp4", (1, 1), n, n / 25, (160, 96), 2, detections=small.to_records())
            for n in (0, 10, 20)
        ),
        Entry("clip.mp4", (1, 1), is_video=True, problem=Problem("incomplete-video", "clip.mp4: cut short")),
    ]
    for entry in reversed(entries):  # answers arrive in any order
        journal.append(entry)
    keys = [entry.key for entry in entries]
    labels = {"b.jpg": Path("b.txt"), "a.jpg": Path("sub/a.txt"), "clip.mp4": Path("clip.txt")}
    yield Results(journal, keys, MODEL, labels)
    journal.close()


def written(results: Results, folder: Path, format_name: str) -> list[Path]:
    return write_outputs(format_name, folder, output_names(format_name, None), results)


def test_coco_holds_what_the_server_answers_for_the_same_images(
    results: Results, tmp_path: Path, detector: Detector, tiny_artifact: Artifact
) -> None:
    (path,) = written(results, tmp_path, "coco")
    document = json.loads(path.read_text())
    images = [
        detector.detect(tiles_image(*hw)) for hw in ((96, 160), (192, 320), (96, 160), (96, 160), (96, 160))
    ]
    server = to_coco([images[0], PROBLEM.to_json(), *images[1:]], tiny_artifact.manifest)
    assert document["annotations"] == server["annotations"]
    assert document["categories"] == server["categories"]
    assert len(server["annotations"]) == 10
    names = ["b.jpg", "bad.jpg", "a.jpg", "clip.mp4#0", "clip.mp4#10", "clip.mp4#20"]
    assert [image["file_name"] for image in document["images"]] == names
    common = [
        {key: image[key] for key in sent}
        for image, sent in zip(document["images"], server["images"], strict=True)
    ]
    assert common == server["images"], "ids, sizes and the problem of the broken one"
    assert document["videos"] == [
        {
            "id": 1,
            "file_name": "clip.mp4",
            "problem": {"code": "incomplete-video", "detail": "clip.mp4: cut short"},
        }
    ]
    assert document["images"][4] == {
        "id": 4, "file_name": "clip.mp4#10", "width": 160, "height": 96, "video_id": 1, "frame_id": 10,
        "timestamp": 0.4,
    }  # fmt: skip
    assert document["info"] == {"description": "hindsight detect", "model": "tiny", "version": "1"}


def test_pycocotools_reads_it(results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO

    (path,) = written(results, tmp_path, "coco")
    coco = COCO(str(path))
    assert len(coco.getAnnIds(imgIds=[2])) == 2
    assert {coco.cats[row["category_id"]]["name"] for row in coco.loadAnns(coco.getAnnIds())} == {
        "red",
        "green",
    }


def test_json_lines_are_those_of_stdout_and_the_problems(results: Results, tmp_path: Path) -> None:
    (path,) = written(results, tmp_path, "jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["file"] for line in lines] == ["b.jpg", "bad.jpg", "a.jpg", *["clip.mp4"] * 4]
    assert lines[1] == {"file": "bad.jpg", "problem": PROBLEM.to_json()}
    assert lines[0]["model"] == "tiny" and lines[0]["image"] == {"width": 160, "height": 96}
    assert lines[0]["detections"] == results.journal.read(("b.jpg", None)).detections
    assert [(line["frame"], line["timestamp"]) for line in lines[3:6]] == [(0, 0.0), (10, 0.4), (20, 0.8)]
    assert lines[6]["problem"]["code"] == "incomplete-video"


def test_yolo_is_a_file_an_image_and_the_names(results: Results, tmp_path: Path, detector: Detector) -> None:
    written(results, tmp_path, "yolo")
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.txt"))
    assert names == [
        "classes.txt", "labels/b.txt", "labels/clip-000000.txt", "labels/clip-000010.txt",
        "labels/clip-000020.txt", "labels/sub/a.txt",
    ]  # fmt: skip
    assert (tmp_path / "classes.txt").read_text() == "red\ngreen\nblue\n"
    expected = detector.detect(tiles_image(192, 320)).to_yolo()
    assert (tmp_path / "labels/sub/a.txt").read_text() == expected and expected.count("\n") == 2


def test_an_image_that_is_called_as_a_frame_keeps_its_labels(results: Results, tmp_path: Path) -> None:
    labels = {**results.labels, "b.jpg": Path("clip-000010.txt")}
    alone = replace(results, keys=results.keys[:1], labels=labels)
    written(alone, tmp_path, "yolo")
    expected = (tmp_path / "labels/clip-000010.txt").read_text()
    written(replace(results, labels=labels), tmp_path, "yolo")
    assert (tmp_path / "labels/clip-000010.txt").read_text() == expected
    assert len(list((tmp_path / "labels").rglob("*.txt"))) == 5
    assert (tmp_path / "labels/clip-000010-2.txt").is_file()


def test_yolo_written_again_leaves_no_label_of_before(results: Results, tmp_path: Path) -> None:
    written(results, tmp_path, "yolo")
    (tmp_path / "labels/left-over.txt").touch()
    written(results, tmp_path, "yolo")
    assert not (tmp_path / "labels/left-over.txt").exists() and (tmp_path / "labels/b.txt").exists()


def test_label_studio_tasks_carry_the_servers_predictions(
    results: Results, tmp_path: Path, detector: Detector, tiny_artifact: Artifact
) -> None:
    (path,) = written(results, tmp_path, "labelstudio")
    tasks = json.loads(path.read_text())
    assert [task["data"] for task in tasks[:2]] == [{"image": "b.jpg"}, {"image": "a.jpg"}]
    expected = to_labelstudio(detector.detect(tiles_image(192, 320)), tiny_artifact.manifest)
    assert tasks[1]["predictions"] == [expected] and len(expected["result"]) == 2


def test_what_cannot_be_written_is_one_line_and_leaves_the_old_file(results: Results, tmp_path: Path) -> None:
    (path,) = written(results, tmp_path, "coco")
    before = path.read_bytes()
    (tmp_path / ".detections.partial.json").mkdir()
    with pytest.raises(JobError, match=r"cannot write .*detections\.json .*: what was detected is kept"):
        written(results, tmp_path, "coco")
    assert path.read_bytes() == before


def test_a_job_without_pictures_is_a_valid_document(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal", {})
    results = Results(journal, [], MODEL, {})
    for format_name in ("coco", "labelstudio"):
        json.loads(written(results, tmp_path, format_name)[0].read_text())
    journal.close()


def test_a_name_that_is_no_text_is_escaped() -> None:
    assert json_line({"file": "röd.jpg"}) == '{"file": "röd.jpg"}'
    assert json.loads(json_line({"file": "b\udce9.jpg"})) == {"file": "b\udce9.jpg"}
    assert json_line({"file": "b\udce9.jpg"}).isascii()
