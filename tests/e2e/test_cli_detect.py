"""`hindsight detect`, `hindsight models` and the command around them, as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hindsight import __version__
from hindsight.artifact import Artifact
from tests.factories import encode, make_tiny_artifact, tiles_image

RED_LINE = np.array([0xD6, 0x27, 0x28])  # the colour of the tiny model's class `red`


@pytest.fixture(autouse=True)
def tiny(tiny_artifact: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HINDSIGHT_MODELS", str(tiny_artifact.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.jpg", "C.PNG"):
        kind = "JPEG" if name.endswith("jpg") else "PNG"
        (tmp_path / "photos" / name).write_bytes(encode(tiles_image(), kind))
    (tmp_path / "photos" / "notes.txt").write_text("not an image, and not asked for")
    (tmp_path / "text.jpg").write_text("hello")


def test_a_table_shows_the_numbers_of_each_box(run) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("detect", "photos/a.png", "--model", "tiny")
    assert (status, err) == (0, "")
    assert "photos/a.png  160 x 96  2 found" in out
    for part in (
        "label",
        "class score",
        "IoU",
        "purity",
        "integrity",
        "red",
        "0.894",
        "1.000",
        "0.800",
        "32.0, 0.0, 64.0, 32.0",
    ):
        assert part in out


def test_json_is_one_line_an_image(run) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run("detect", "photos", "--model", "tiny", "--json", "--score-threshold", "0.86")
    assert (status, err) == (0, "")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["file"] for line in lines] == ["photos/C.PNG", "photos/a.png", "photos/b.jpg"]
    assert lines[1]["image"] == {"width": 160, "height": 96}
    assert [row["label"] for row in lines[1]["detections"]] == ["red"]
    assert set(lines[1]["detections"][0]) == {
        "box", "label", "label_id", "score", "class_score", "iou", "purity", "integrity",
    }  # fmt: skip


def test_a_bad_image_does_not_stop_the_rest(run) -> None:  # type: ignore[no-untyped-def]
    status, out, err = run(
        "detect", "photos/a.png", "text.jpg", "nowhere.jpg", "photos/b.jpg", "--model", "tiny", "--json"
    )
    assert status == 2
    assert [json.loads(line)["file"] for line in out.splitlines()] == ["photos/a.png", "photos/b.jpg"]
    first, second = err.splitlines()
    assert first.startswith("hindsight: text.jpg: the data does not start like an image")
    assert second.startswith("hindsight: nowhere.jpg: cannot be read")


def test_a_folder_that_cannot_be_read_does_not_stop_the_rest(  # type: ignore[no-untyped-def]
    run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    status, out, err = run("detect", "photos", "photos/a.png", "--model", os.environ["HINDSIGHT_MODELS"])
    assert (status, err) == (2, "hindsight: photos: cannot be read (Permission denied)\n")
    assert "2 found" in out


def test_a_stream_without_end_is_not_read_for_ever(run) -> None:  # type: ignore[no-untyped-def]
    status, _, err = run("detect", "/dev/zero", "--model", "tiny")
    assert status == 2 and err.startswith("hindsight: /dev/zero: the image has") and err.count("\n") == 1


def test_what_the_format_cannot_hold_is_one_line(run) -> None:  # type: ignore[no-untyped-def]
    Path("ribbon.png").write_bytes(encode(np.full((2, 20_000, 3), 255, np.uint8)))
    status, _, err = run("detect", "ribbon.png", "--model", "tiny", "--annotate", "out.webp")
    assert status == 2 and "cannot write out.webp" in err and err.count("\n") == 1


def test_annotate_writes_one_image_to_a_file(run) -> None:  # type: ignore[no-untyped-def]
    status, _, _ = run("detect", "photos/a.png", "--model", "tiny", "--annotate", "drawn.png")
    assert status == 0
    drawn = np.asarray(Image.open("drawn.png"))
    assert drawn.shape == (96, 160, 3)
    assert (drawn[31, 32:64] == RED_LINE).all(), "the lower edge of the red box"


def test_annotate_writes_many_images_to_a_folder(run) -> None:  # type: ignore[no-untyped-def]
    Path("more").mkdir()
    Path("more/a.png").write_bytes(encode(tiles_image()))
    status, _, _ = run("detect", "photos", "more", "--model", "tiny", "--annotate", "out/drawn")
    assert status == 0
    assert sorted(path.name for path in Path("out/drawn").iterdir()) == ["C.PNG", "a-2.png", "a.png", "b.jpg"]


def test_annotate_never_overwrites_an_input(run) -> None:  # type: ignore[no-untyped-def]
    before = Path("photos/a.png").read_bytes()
    for target in ("photos", "photos/a.png"):
        status, _, err = run("detect", "photos/a.png", "--model", "tiny", "--annotate", target)
        assert status == 2 and "would overwrite" in err
    assert Path("photos/a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos/a.png", "--score-threshold", "2"], "score_threshold must be a number in 0..1, got 2.0"),
        (["photos/a.png", "--nms-threshold", "nan"], "nms_threshold"),
        (["photos/a.png", "--classes", "rad"], "did you mean 'red'?"),
        (["photos/a.png", "--classes", " ,"], "at least one of red, green, blue"),
        (["photos/a.png", "--max-detections", "0"], "max_detections"),
        (["photos/a.png", "--threads", "0"], "threads must be at least 1"),
        (["photos/a.png", "--model", "nope"], "no model named 'nope'"),
        (["photos/a.png", "--annotate", "drawn.docx"], "--annotate writes"),
        (["photos/a.png", "--annotate", "nowhere/drawn.png"], "there is no folder nowhere"),
        (["photos", "--annotate", "text.jpg"], "must be a folder"),
        (["empty"], "no images in this folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(run, arguments: list[str], message: str) -> None:  # type: ignore[no-untyped-def]
    Path("empty").mkdir()
    model = [] if "--model" in arguments else ["--model", "tiny"]
    status, out, err = run("detect", *arguments, *model)
    assert (status, out) == (2, "")
    assert message in err and len(err.splitlines()) == 1


def test_a_changed_model_is_refused_in_one_line(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    artifact = make_tiny_artifact(tmp_path / "changed")
    (artifact.path / "weights.bin").write_bytes(b"1234")
    status, _, err = run("detect", "photos/a.png", "--model", str(artifact.path))
    assert status == 2 and len(err.splitlines()) == 1 and "weights.bin is not the file" in err


def test_models_lists_classes_metrics_and_path(run, tiny_artifact: Artifact) -> None:  # type: ignore[no-untyped-def]
    status, out, _ = run("models", "--json")
    entry = next(entry for entry in json.loads(out) if entry["name"] == "tiny")
    assert status == 0
    assert entry["classes"] == ["red", "green", "blue"] and entry["metrics"]["AP50"] == 0.9
    assert entry["path"] == str(tiny_artifact.path)
    status, out, _ = run("models")
    assert status == 0 and "red, green, blue" in out and "0.900" in out
    cells = (line.split("│") for line in out.splitlines() if line.startswith("│"))
    shown = "".join(row[8].strip() for row in cells)
    assert shown.startswith(str(tiny_artifact.path)), "folded, but whole"


def test_models_reports_a_bad_one_and_lists_the_rest(
    run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,  # type: ignore[no-untyped-def]
) -> None:
    make_tiny_artifact(tmp_path / "models" / "good")
    bad = make_tiny_artifact(tmp_path / "models" / "bad")
    (bad.path / "weights.bin").unlink()
    monkeypatch.setenv("HINDSIGHT_MODELS", str(tmp_path / "models"))
    status, out, err = run("models", "--json")
    assert status == 2 and "weights.bin is listed" in err
    assert "good" in {entry["name"] for entry in json.loads(out)}


def test_models_lists_every_version_of_a_folder(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for version in ("1.9", "1.10"):
        make_tiny_artifact(tmp_path / "models" / "cells" / version, name="cells", version=version)
    status, out, err = run("models", "--models", "models", "--json")
    assert (status, err) == (0, "")
    assert [(entry["name"], entry["version"]) for entry in json.loads(out)] == [
        ("cells", "1.10"),
        ("cells", "1.9"),
    ]
    (tmp_path / "models" / "cells" / "1.9").rename(tmp_path / "models" / "cells" / "1.8")
    status, out, err = run("models", "--models", "models")
    assert status == 2 and "its manifest says 1.9" in err and "1.10" in out
    assert run("models", "--models", "nowhere")[0] == 2


def test_help_lists_every_command_with_a_line_each(run) -> None:  # type: ignore[no-untyped-def]
    status, out, _ = run("--help")
    assert status == 0
    for command in ("detect", "models", "serve", "train", "evaluate", "export", "import"):
        assert any(command in line and line.rstrip(" │").endswith(".") for line in out.splitlines())


def test_a_missing_extra_is_named(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def needs_torch() -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    class Entry:
        name = "train"

        @staticmethod
        def load() -> object:
            return needs_torch

    monkeypatch.setattr("hindsight.cli._commands", lambda: [Entry()])
    status, _, err = run("train")
    assert status == 2
    assert err == 'hindsight: train needs torch: pip install ".[train]" in Hindsight\'s repository\n'


def test_the_installed_command_detects_without_importing_torch(tiny_artifact: Artifact) -> None:
    probe = (
        "import sys, atexit; sys.argv = ['hindsight', 'detect', 'photos/a.png', '--model', 'tiny', '--json'];"
        "atexit.register(lambda: print('torch' in sys.modules, 'service' in sys.modules));"
        "from hindsight.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, env=os.environ, check=True
    )
    detections, modules = done.stdout.splitlines()
    assert len(json.loads(detections)["detections"]) == 2
    assert modules == "False False"


def test_version(run) -> None:  # type: ignore[no-untyped-def]
    assert run("--version") == (0, f"hindsight {__version__}\n", "")


def test_names_that_a_terminal_or_json_cannot_tell_are_told_as_well_as_they_can(tmp_path: Path) -> None:
    """In an encoding without umlauts, and of a name that is no text in any."""
    names = ["röd.png", os.fsdecode(b"caf\xe9.png")]
    for name in names:
        Path(name).write_bytes(encode(tiles_image()))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for encoding in ("ascii", "utf-8"):
        for more in ((), ("--json",)):
            done = subprocess.run(
                [sys.executable, "-m", "hindsight", "detect", *names, "--model", "tiny", *more],
                env={**environment, "PYTHONIOENCODING": encoding},
                capture_output=True, check=False, timeout=120,
            )  # fmt: skip
            assert (done.returncode, done.stderr) == (0, b"")
            if more:
                assert [json.loads(line)["file"] for line in done.stdout.splitlines()] == names
            else:
                assert (b"r?d.png" if encoding == "ascii" else "röd.png".encode()) in done.stdout


@pytest.mark.filterwarnings("always::hindsight.places.ModelsFolderWarning")
def test_a_folder_of_models_that_is_not_there_is_one_line(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("HINDSIGHT_MODELS", f"nowhere{os.pathsep}{os.environ['HINDSIGHT_MODELS']}")
    status, out, err = run("detect", "photos/a.png", "--model", "tiny")
    assert (status, err) == (0, "hindsight: $HINDSIGHT_MODELS names nowhere, which is not there\n")
    assert "2 found" in out


def test_lists_into_a_full_disk_are_one_line() -> None:
    with open("/dev/full", "w") as full:
        for arguments in (["models"], ["models", "--json"], ["--help"]):
            done = subprocess.run(
                [sys.executable, "-m", "hindsight", *arguments],
                stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=120,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )  # fmt: skip
            assert done.returncode == 2
            assert done.stderr == "hindsight: cannot write to standard output (No space left on device)\n"
