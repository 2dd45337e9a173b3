"""`hindsight parity`: equal runtimes pass, every kind of difference fails, bad input is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from export import parity_run
from export.parity_cli import parity
from export.parity_run import Request
from hindsight.artifact import Artifact
from hindsight.errors import RuntimeFailure
from tests.factories import make_tiny_artifact, tiles_image
from tests.unit.export import wrong_runtimes

SIZES = [(96, 160), (96, 160), (90, 150), (160, 96), (128, 128), (96, 140)]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_runtimes.register(monkeypatch)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for index, size in enumerate(SIZES):
        noise = np.random.default_rng(index).integers(0, 90, (*size, 3), dtype=np.uint8)
        Image.fromarray(np.maximum(tiles_image(*size), noise)).save(folder / f"{index}.png")
    (folder / "notes.txt").write_text("no image")
    return folder


def run(artifact: Artifact, photos: Path, backends: str, out: Path, *more: object) -> Result:
    app = typer.Typer()
    app.command()(parity)
    words = [artifact.path, "--backends", backends, "--images", photos, "--out", out / "parity.json", *more]
    return CliRunner().invoke(app, [str(word) for word in words])


def read(out: Path) -> dict[str, Any]:
    document = json.loads((out / "parity.json").read_text())
    assert isinstance(document, dict)
    return document


def test_a_runtime_equals_itself(tiny_artifact: Artifact, photos: Path, tmp_path: Path) -> None:
    result = run(tiny_artifact, photos, "onnxruntime,onnxruntime", tmp_path)
    assert result.exit_code == 0, result.output
    document = read(tmp_path)
    (candidate,) = document["candidates"]
    assert document["passed"] and candidate["passed"] and not candidate["problems"]
    runs = {row["run"]: row for row in candidate["runs"]}
    assert runs["alone"]["images"] == len(SIZES)
    assert runs["batched"]["images"] == 4 and runs["mixed sizes"]["images"] == 4
    for row in runs.values():
        assert row["matched"] > 0 and row["outliers"] == row["unexplained"] == 0
        assert set(row["gaps"]) == {"boxes", "scores", "class_scores", "ious", "purities", "integrities"}
        assert all(gap == {"max": 0, "mean": 0} for gap in row["gaps"].values())
    assert candidate["rescored"]["matched"] > 8 * len(SIZES)
    assert candidate["ap"] == {
        "against": "the reference's detections",
        "reference": None,
        "candidate": 1.0,
        "difference": None,
        "missing": None,
    }
    assert document["model"]["name"] == "tiny" and document["photos"]["count"] == len(SIZES)
    assert document["reference"] == "onnxruntime@cpu" and "onnxruntime" in document["versions"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("moved", ["detections", "have no partner", "boxes 0.2"]),
        ("far-half", [" detections differ", "have no partner", "matched 0"]),
        ("purity", ["detections", "purities 0.05"]),
        ("judge", ["rescored boxes differ by more than 0.0005", "purities 0.2"]),
        ("missing", ["detections", "have no partner"]),
        ("blind", ["detections", "have no partner", "matched 0"]),
    ],
)
def test_every_difference_fails(
    tiny_artifact: Artifact, photos: Path, tmp_path: Path, wrong: str, words: list[str]
) -> None:
    result = run(tiny_artifact, photos, f"onnxruntime,changed:{wrong}", tmp_path)
    assert result.exit_code == 1, result.output
    document = read(tmp_path)
    assert not document["passed"]
    text = " ".join(document["candidates"][0]["problems"])
    for word in words:
        assert word in text
    assert "FAILED" in result.output and all(runtime.closed for runtime in wrong_runtimes.opened)


def test_half_precision_has_more_room(tiny_artifact: Artifact, photos: Path, tmp_path: Path) -> None:
    result = run(tiny_artifact, photos, "changed:same,changed:moved-half", tmp_path)
    assert result.exit_code == 0, result.output
    (candidate,) = read(tmp_path)["candidates"]
    assert candidate["precision"] == "fp16"
    assert candidate["runs"][0]["gaps"]["boxes"]["max"] == pytest.approx(0.2, abs=1e-4)
    strict = run(
        tiny_artifact, photos, "changed:same,changed:moved-half", tmp_path, "--tolerance", "0.1,0.01"
    )
    assert strict.exit_code == 1
    assert (
        run(tiny_artifact, photos, "changed:same,changed:moved", tmp_path, "--tolerance", "0.3,0").exit_code
        == 0
    )
    many = ("--outliers", "1")
    assert run(tiny_artifact, photos, "changed:same,changed:moved", tmp_path, *many).exit_code == 0


def test_every_candidate_is_held_against_the_first(
    tiny_artifact: Artifact, photos: Path, tmp_path: Path
) -> None:
    result = run(tiny_artifact, photos, "onnxruntime@cpu,changed:same,changed:moved", tmp_path)
    assert result.exit_code == 1
    assert [row["passed"] for row in read(tmp_path)["candidates"]] == [True, False]


def test_an_argument_may_hold_commas(tiny_artifact: Artifact) -> None:
    words = "onnxruntime, changed:fp16,compile@cuda,changed:bf16,changed,graphs=8"
    request = Request.parse(str(tiny_artifact.path), words, "cpu", None, None)
    assert [str(backend) for backend in (request.reference, *request.candidates)] == [
        "onnxruntime@cpu",
        "changed:fp16,compile@cuda",
        "changed:bf16@cpu",
        "changed@cpu",
        "graphs=8@cpu",
    ]


def test_annotations_give_both_an_ap(tiny_artifact: Artifact, photos: Path, tmp_path: Path) -> None:
    path = write_annotations(tmp_path)
    both = "onnxruntime,changed:moved"
    result = run(tiny_artifact, photos, both, tmp_path, "--limit", 2, "--annotations", path)
    assert result.exit_code == 1
    ap = read(tmp_path)["candidates"][0]["ap"]
    assert ap["against"] == "annotations" and ap["missing"] is None
    # the red tile is found, the green one misses an annotation that lies elsewhere
    assert 0.3 < ap["reference"] < 0.9
    assert ap["difference"] == pytest.approx(ap["candidate"] - ap["reference"])


def write_annotations(folder: Path) -> Path:
    """Of photos 0 and 1: the red tile where it is, the green one 20 pixels off."""
    boxes = {"red": [32, 0, 32, 32], "green": [116, 64, 32, 32], "unknown": [0, 0, 9, 9]}
    document = {
        "images": [{"id": image, "file_name": f"train/{image}.png"} for image in (0, 1)],
        "annotations": [
            {"image_id": image, "category_id": number, "bbox": box, "iscrowd": 0}
            for image in (0, 1)
            for number, box in enumerate(boxes.values())
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(boxes)],
    }
    path = folder / "coco.json"
    path.write_text(json.dumps(document))
    return path


def test_without_the_evaluator_ap_is_left_out_and_annotations_are_refused(
    tiny_artifact: Artifact, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)  # importing it fails
    same = "changed:same,changed:same"
    result = run(tiny_artifact, photos, same, tmp_path, "--limit", 1)
    assert result.exit_code == 0, result.output
    assert "no AP: faster-coco-eval cannot be imported" in result.output
    ap = read(tmp_path)["candidates"][0]["ap"]
    assert ap["candidate"] is None and "hindsight-detector[export]" in ap["missing"]
    (tmp_path / "parity.json").unlink()
    annotations = write_annotations(tmp_path)
    refused = run(tiny_artifact, photos, same, tmp_path, "--limit", 1, "--annotations", annotations)
    assert_refused(refused, "--annotations", "install faster-coco-eval")


def test_a_model_without_the_second_opinion_is_compared_too(photos: Path, tmp_path: Path) -> None:
    plain = make_tiny_artifact(tmp_path / "plain", localization=False)
    result = run(plain, photos, "onnxruntime,onnxruntime", tmp_path, "--batch", 1)
    assert result.exit_code == 0, result.output
    (candidate,) = read(tmp_path)["candidates"]
    assert candidate["rescored"] is None and [row["run"] for row in candidate["runs"]] == ["alone"]


def test_masks_count_as_probabilities(photos: Path, tmp_path: Path) -> None:
    masked = make_tiny_artifact(tmp_path / "masked", masks=True)
    result = run(masked, photos, "onnxruntime,onnxruntime", tmp_path, "--limit", 2)
    assert result.exit_code == 0, result.output
    assert "masks" in read(tmp_path)["candidates"][0]["runs"][0]["gaps"]


@pytest.mark.parametrize(
    ("backends", "more", "words"),
    [
        ("onnxruntime", [], ["--backends", "onnxruntime,tensorrt"]),
        ("onnxruntime,", [], ["--backends"]),
        ("onnxruntime,nonesuch", [], ["nonesuch", "unknown runtime"]),
        ("onnxruntime,onnxruntime@tpu", [], ["device"]),
        ("onnxruntime,broken", [], ["on fire"]),
        ("onnxruntime,changed:headless", [], ["changed:headless", "ious"]),
        ("onnxruntime,onnxruntime", ["--tolerance", "1"], ["--tolerance", "PIXELS,SCORE"]),
        ("onnxruntime,changed@", [], ["--backends", "NAME@DEVICE", "'changed@'"]),
        ("onnxruntime,onnxruntime", ["--annotations", "none.json"], ["none.json"]),
        ("onnxruntime,onnxruntime", ["--device", "tpu"], ["device"]),
    ],
)
def test_bad_input_is_one_line(
    tiny_artifact: Artifact, photos: Path, tmp_path: Path, backends: str, more: list[str], words: list[str]
) -> None:
    assert_refused(run(tiny_artifact, photos, backends, tmp_path, "--limit", 1, *more), *words)
    assert not (tmp_path / "parity.json").exists()


def test_a_place_to_write_is_looked_for_first(tiny_artifact: Artifact, photos: Path, tmp_path: Path) -> None:
    assert_refused(run(tiny_artifact, photos, "changed:same,changed:same", tmp_path / "none"), "--out")
    (tmp_path / "parity.json").mkdir()
    folder = run(tiny_artifact, photos, "changed:same,changed:same", tmp_path)
    assert_refused(folder, "--out must be a file to write", "parity.json is a folder")
    assert not wrong_runtimes.opened


def test_a_gpu_that_cannot_be_named_is_unknown(
    tiny_artifact: Artifact, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here(number: int) -> None:
        raise RuntimeFailure("no GPU here")

    monkeypatch.setattr(parity_run, "Gpu", none_here)
    both = "changed:same@cuda:1,changed:same"
    assert run(tiny_artifact, photos, both, tmp_path, "--limit", 1).exit_code == 0
    assert read(tmp_path)["hardware"]["cuda:1"] == "unknown"


def test_bad_folders_are_one_line(tiny_artifact: Artifact, photos: Path, tmp_path: Path) -> None:
    both = "onnxruntime,onnxruntime"
    assert_refused(run(tiny_artifact, photos / "0.png", both, tmp_path), "folder of images")
    (tmp_path / "empty").mkdir()
    assert_refused(run(tiny_artifact, tmp_path / "empty", both, tmp_path), "no image")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"\xff\xd8\xffno")
    assert_refused(run(tiny_artifact, tmp_path / "broken", both, tmp_path), "a.jpg")
    broken = [
        ("[]", ["COCO"]),
        ('{"images": [], "annotations": [], "categories": []}', ["lists no image"]),
    ]
    for text, words in broken:
        (tmp_path / "coco.json").write_text(text)
        assert_refused(
            run(tiny_artifact, photos, both, tmp_path, "--annotations", tmp_path / "coco.json"), *words
        )


def assert_refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("hindsight: ")
    for word in words:
        assert word in line


def test_onnxruntime_alone_never_loads_torch(tiny_artifact: Artifact, photos: Path, tmp_path: Path) -> None:
    program = (
        "import sys, typer; from export.parity_cli import parity; "
        "app = typer.Typer(); app.command()(parity); "
        "app(sys.argv[1:], standalone_mode=False); assert 'torch' not in sys.modules"
    )
    words = [tiny_artifact.path, "--backends", "onnxruntime,onnxruntime", "--images", photos, "--limit", "1"]
    words += ["--out", tmp_path / "parity.json"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
