"""`hindsight audit` as a user meets it: three formats, stopped and started again, changed under its feet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest

from hindsight.artifact import Artifact
from hindsight.audit import look as look_module
from hindsight.audit.journal import FILE as JOURNAL
from tests.audit_sets import ANNOTATIONS, SUSPICIOUS, TILES, call_audit, write_tiles_voc, write_tiles_yolo
from tests.factories import encode, make_tiny_artifact, tiles_image

Run = Callable[..., tuple[int, str, str]]
OTHERS = {"max_rescore_boxes": 2}  # so that an image's boxes are asked about in parts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_tiny_artifact(tmp_path_factory.mktemp("models") / "tiny", integrity=1.0, **OTHERS)


@pytest.fixture
def run(
    model: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Run:
    """run(*arguments) -> exit status, stdout, stderr; in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, with_model: str | Path = model.path) -> tuple[int, str, str]:
        given = [str(argument) for argument in arguments]
        status = call_audit(*given, "--model", str(with_model))
        out, err = capsys.readouterr()
        return status, out, err

    return call


def verdicts(out: Path) -> list[str]:
    document = json.loads((out / "audit.json").read_text())
    return [annotation["verdict"] for annotation in document["annotations"]]


def expected(names: list[str]) -> list[str]:
    return [verdict for name in names for _, _, verdict in TILES[name]]


def test_every_kind_of_mistake_is_found(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    status, out, err = run("tiles")
    assert (status, err) == (0, "")
    assert verdicts(Path("audit-tiles")) == expected(sorted(TILES))
    assert f"tiles: {len(TILES)} images, {ANNOTATIONS} annotations, {SUSPICIOUS} suspicious" in out
    assert "report: audit-tiles/report.html" in out and "COCO JSON: audit-tiles/audit.json" in out
    (missing,) = json.loads(Path("audit-tiles/audit.json").read_text())["audit"]["missing"]
    assert missing["bbox"] == pytest.approx([96, 64, 32, 32], abs=0.5)


def test_the_json_is_a_coco_file_with_figures(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    run("tiles", "--out", "qa")
    document = json.loads(Path("qa/audit.json").read_text())
    assert document["images"][0]["file_name"] == "JPEGImages/fine.png"
    by_verdict = {entry["verdict"]: entry for entry in document["annotations"]}
    loose = by_verdict["loose"]
    assert loose["bbox"] == [16, 0, 64, 48]
    assert loose["purity"] == pytest.approx(1 / 3, abs=0.01) == loose["iou"]
    assert loose["integrity"] == 1.0
    assert loose["suggestion"]["bbox"] == pytest.approx([32, 0, 32, 32], abs=0.5)
    ranks = [entry["rank"] for entry in document["annotations"]]
    assert len(set(ranks)) == len(ranks)
    by_rank = sorted(document["annotations"], key=lambda entry: entry["rank"])
    suspicions = [entry["suspicion"] for entry in by_rank]
    assert suspicions == sorted(suspicions, reverse=True)
    assert [entry["verdict"] != "fine" for entry in by_rank] == [True] * SUSPICIOUS + [False] * (
        ANNOTATIONS - SUSPICIOUS
    )
    assert by_verdict["duplicate"]["duplicate_of"] in {entry["id"] for entry in document["annotations"]}
    # what was written is itself a data set that can be audited, with the same outcome
    status, _, _ = run("qa/audit.json", "--images", "tiles", "--out", "again")
    assert status == 0 and verdicts(Path("again")) == verdicts(Path("qa"))


def test_a_coco_file_keeps_all_that_it_says(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    run("tiles", "--out", "first")
    document: dict[str, Any] = json.loads(Path("first/audit.json").read_text())
    for entry in document["annotations"]:
        entry["id"] += 1000
        entry["attributes"] = {"by": "me"}
        for key in ("verdict", "iou", "purity", "suggestion"):
            entry.pop(key, None)
    document["annotations"].insert(1, {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2]})
    document["categories"] = [{**entry, "id": 10 * entry["id"]} for entry in document["categories"]]
    for entry in document["annotations"]:
        entry["category_id"] *= 10
    document["info"] = {"year": 2026}
    Path("set.json").write_text(json.dumps(document))
    status, out, _ = run("set.json", "--images", "tiles", "--out", "second")
    assert (
        status == 0 and "1 bad entries could not be read, the first: set.json:1: annotation 7: bbox is" in out
    )
    written = json.loads(Path("second/audit.json").read_text())
    assert written["info"] == {"year": 2026} and written["categories"] == document["categories"]
    assert [entry["id"] for entry in written["annotations"]] == [
        entry["id"] for entry in document["annotations"]
    ]
    assert written["annotations"][1]["verdict"] == "bad entry"
    assert all(
        entry.get("attributes") == {"by": "me"} for entry in written["annotations"] if entry["id"] != 7
    )
    rest = [entry["verdict"] for entry in written["annotations"] if entry["id"] != 7]
    assert rest == expected(sorted(TILES))


def test_an_audit_of_an_audit_repeats_nothing_that_is_out_of_date(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    run("tiles", "--out", "first")
    document: dict[str, Any] = json.loads(Path("first/audit.json").read_text())
    for entry in document["annotations"]:
        entry |= {"suggestion": {"bbox": [0, 0, 1, 1]}, "duplicate_of": 99, "rank": 99}
    document["annotations"].append({"id": 500, "verdict": "fine", "iou": 0.9})
    Path("set.json").write_text(json.dumps(document))
    assert run("set.json", "--images", "tiles", "--out", "second")[0] == 0
    *entries, bad = json.loads(Path("second/audit.json").read_text())["annotations"]
    assert bad == {"id": 500, "verdict": "bad entry"}
    first = json.loads(Path("first/audit.json").read_text())["annotations"]
    assert [{**entry, "rank": 0} for entry in entries] == [{**entry, "rank": 0} for entry in first]
    page = Path("second/report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert data["nextId"] == 501


def test_of_two_entries_with_one_id_the_first_is_meant(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    run("tiles", "--out", "first")
    document: dict[str, Any] = json.loads(Path("first/audit.json").read_text())
    document["annotations"].insert(0, {**document["annotations"][0], "category_id": 99})
    Path("set.json").write_text(json.dumps(document))
    status, out, _ = run("set.json", "--images", "tiles", "--out", "second")
    assert status == 0 and "2 bad entries could not be read" in out
    entries = json.loads(Path("second/audit.json").read_text())["annotations"]
    assert [entry["verdict"] for entry in entries[:2]] == ["bad entry", "bad entry"]
    assert [entry["verdict"] for entry in entries[2:]] == expected(sorted(TILES))[1:]


def test_names_of_files_that_are_no_text(run: Run, tmp_path: Path) -> None:
    write_tiles_yolo(tmp_path / "tiles")
    for file in [*Path("tiles").rglob("*.png"), *Path("tiles/labels").rglob("*.txt")]:
        os.rename(file, os.fsencode(file.with_suffix("")) + b"\xe9" + os.fsencode(file.suffix))
    Path("tiles/labels", os.fsdecode(b"orphan\xe9.txt")).touch()
    status, out, err = run("tiles")
    assert (status, err) == (0, "") and "orphan" in out
    assert sorted(verdicts(Path("audit-tiles"))) == sorted(expected(sorted(TILES)))
    document = json.loads(Path("audit-tiles/audit.json").read_text(encoding="utf-8"))
    assert all(Path("tiles", image["file_name"]).is_file() for image in document["images"])
    page = Path("audit-tiles/report.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    for image in data["images"]:
        assert (Path("audit-tiles").resolve() / os.fsdecode(unquote_to_bytes(image["href"]))).is_file()


def test_a_yolo_folder_gets_the_same_verdicts(run: Run, tmp_path: Path) -> None:
    write_tiles_yolo(tmp_path / "tiles")
    status, _, err = run("tiles/data.yaml")
    assert (status, err) == (0, "")
    assert verdicts(Path("audit-tiles")) == expected(sorted(TILES))
    status, _, err = run("tiles", "--out", "tiles/images/qa")
    assert status == 2 and "lies among the data set's images" in err and err.count("\n") == 1


@pytest.mark.parametrize("kind", ["links", "below"])
def test_the_reports_pictures_never_become_the_sets(run: Run, tmp_path: Path, kind: str) -> None:
    """Images are links to files elsewhere; or all of them lie in a folder of the folder that is named."""
    write_tiles_yolo(tmp_path / "tiles")
    images, labels = tmp_path / "tiles/images", tmp_path / "tiles/labels"
    (tmp_path / "store").mkdir()
    for folder in (images / "deep", labels / "deep"):
        folder.mkdir()
    for file in [*images.glob("*.png"), *labels.glob("*.txt")]:
        if kind == "below":
            file.rename(file.parent / "deep" / file.name)
        elif file.suffix == ".png":
            (images / file.name).rename(tmp_path / "store" / file.name)
            file.symlink_to(tmp_path / "store" / file.name)
    status, _, err = run("tiles", "--out", "tiles/images/report")
    assert status == 2 and "lies among the data set's images" in err
    assert run("tiles", "--out", "tiles/report")[0] == 0


def test_a_finished_audit_is_not_done_again(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiles_voc(tmp_path / "tiles")
    run("tiles")
    before = Path("audit-tiles/audit.json").read_text()
    looked: list[str] = []
    monkeypatch.setattr(look_module, "_look_at", lambda detector, image, views: looked.append(image.name))
    status, _, err = run("tiles")
    assert (status, looked) == (0, [])
    assert err == "hindsight: 6 of 6 images were looked at before\n"
    assert Path("audit-tiles/audit.json").read_text() == before


def test_what_changed_is_looked_at_again_and_nothing_else(run: Run, tmp_path: Path) -> None:
    root = write_tiles_voc(tmp_path / "tiles")
    run("tiles")
    size = (Path("audit-tiles") / JOURNAL).stat().st_size
    (root / "JPEGImages" / "fine.png").write_bytes(encode(tiles_image()[:, :, ::-1].copy()))
    (root / "Annotations" / "ghost.xml").unlink()
    status, _, err = run("tiles")
    assert status == 0
    assert err == (
        "hindsight: 4 of 5 images were looked at before; 1 changed since and are looked at again; 1 are no "
        "longer in the data set\n"
    )
    assert verdicts(Path("audit-tiles"))[:2] == ["wrong class", "fine"]  # its red tile is blue now
    added = (Path("audit-tiles") / JOURNAL).stat().st_size - size
    assert 0 < added < size / 4


def test_another_model_is_noticed(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    run("tiles")
    other = make_tiny_artifact(tmp_path / "other", version="2")
    status, _, err = run("tiles", with_model=other.path)
    assert status == 2 and err.count("\n") == 1
    assert "audit-tiles holds an audit with another model (tiny@1#" in err and "now tiny@2#" in err
    status, _, _ = run("tiles", "--restart", with_model=other.path)
    assert status == 0
    assert json.loads(Path("audit-tiles/audit.json").read_text())["audit"]["model"] == "tiny 2"


def test_fewer_views_are_another_audit(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    run("tiles", "--views", "1")
    assert verdicts(Path("audit-tiles")) == expected(sorted(TILES))
    assert json.loads(Path("audit-tiles/audit.json").read_text())["audit"]["views"] == 1
    status, _, err = run("tiles")
    assert status == 2 and "with another number of views (1, now 4)" in err and err.count("\n") == 1


def test_bad_images_are_reported_and_the_rest_is_judged(run: Run, tmp_path: Path) -> None:
    root = write_tiles_voc(tmp_path / "tiles")
    whole = (root / "JPEGImages" / "loose.png").read_bytes()
    (root / "JPEGImages" / "loose.png").write_bytes(whole[: len(whole) // 2])  # its header is sound
    (root / "JPEGImages" / "swapped.png").write_text("hello")
    (root / "JPEGImages" / "twice.png").unlink()
    status, out, err = run("tiles")
    assert status == 2
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(any(name in line for line in lines) for name in ("loose.png", "swapped.png", "twice.jpg"))
    assert "report: audit-tiles/report.html" in out
    document = json.loads(Path("audit-tiles/audit.json").read_text())
    counts = Counter(entry["verdict"] for entry in document["annotations"])
    assert counts == {"fine": 5, "no object": 1, "bad entry": 2}
    assert len(document["audit"]["problems"]) == 3
    (root / "JPEGImages" / "loose.png").write_bytes(whole)  # mended: the next run sees it
    run("tiles")
    assert "loose" in verdicts(Path("audit-tiles"))


def test_classes_by_other_names(run: Run, tmp_path: Path) -> None:
    root = write_tiles_voc(tmp_path / "tiles")
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace(">red<", ">Rot<").replace(">blue<", ">dust<"))
    status, _, err = run("tiles")
    assert status == 2 and err.count("\n") == 1
    assert "the model does not know the data set's Rot, dust (it knows red, green, blue)" in err
    assert not Path("audit-tiles/audit.json").exists()
    status, _, err = run("tiles", "--map", "Rot=red", "--skip-class", "dust")
    assert (status, err) == (0, "")
    assert verdicts(Path("audit-tiles")) == [
        "not judged" if verdict == "no object" else verdict for verdict in expected(sorted(TILES))
    ]


def test_another_mapping_is_noticed(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    run("tiles")
    status, _, err = run("tiles", "--map", "green=blue")
    assert status == 0
    assert err == (
        "hindsight: 1 of 6 images were looked at before; 5 changed since and are looked at again\n"
    )  # all but the one without a green annotation
    assert verdicts(Path("audit-tiles"))[1] == "wrong class"


@pytest.mark.parametrize("workers", ["1", "4"])
def test_workers_do_not_change_what_is_found(run: Run, tmp_path: Path, workers: str) -> None:
    write_tiles_voc(tmp_path / "tiles")
    status, _, _ = run("tiles", "--workers", workers)
    assert status == 0 and verdicts(Path("audit-tiles")) == expected(sorted(TILES))


def test_the_report_lists_the_worst_and_keeps_no_other_pictures(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    run("tiles")
    assert len(list(Path("audit-tiles/pictures").iterdir())) > 3
    run("tiles", "--worst", "2")
    assert (
        len(list(Path("audit-tiles/pictures").iterdir())) == 3
    )  # of two boxes, and of the one that is missing
    page = Path("audit-tiles/report.html").read_text()
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [item["verdict"] for item in data["items"]].index("missing") == 2 and data[
        "ranked"
    ] == ANNOTATIONS + 1


@pytest.mark.parametrize("name", ["audit.json", "report.html"])
def test_what_no_audit_has_written_is_not_written_over(run: Run, tmp_path: Path, name: str) -> None:
    write_tiles_voc(tmp_path / "tiles")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    status, _, err = run("tiles", "--out", "out")
    assert status == 2 and f"out/{name} is there already" in err and err.count("\n") == 1
    assert [file.name for file in Path("out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "mine"
    status, _, _ = run("tiles", "--out", "out", "--restart")
    assert status == 0 and (tmp_path / "out" / name).read_text() != "mine"
    assert run("tiles", "--out", "out")[0] == 0


def test_a_model_that_judges_no_boxes_is_refused(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    plain = make_tiny_artifact(tmp_path / "plain", name="plain", localization=False)
    status, _, err = run("tiles", with_model=plain.path)
    assert (
        status == 2 and err == "hindsight: model plain has no localization head, so it cannot rescore boxes\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder"),
        (["empty"], "expected a Pascal VOC folder"),
        (["tiles", "--split", "val"], "no split 'val'"),
        (["tiles", "--map", "red"], "--map takes"),
        (["tiles", "--skip-class", "rad"], "the data set has no class 'rad' (did you mean 'red'?)"),
        (["tiles", "--out", "file.txt"], "--out file.txt must be a folder"),
        (["tiles", "--workers", "0"], "--workers"),
        (["tiles", "--worst", "0"], "--worst"),
        (["tiles", "--views", "5"], "--views"),
        (["tiles", "--imags", "x"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_tiles_voc(tmp_path / "tiles")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("not a folder")
    status, out, err = run(*arguments)
    assert status == 2 and out == ""
    assert message in err and err.count("\n") == 1 and err.startswith("hindsight: ")


SLOW = """
import os, sys, time
from importlib.metadata import EntryPoint
from hindsight import cli
from hindsight.audit import look

real = look._look_at
def slow(detector, image, views):
    if image.name.endswith("loose.png"):
        time.sleep(float(os.environ["SLEEP"]))
    return real(detector, image, views)
look._look_at = slow
cli.entry_points = lambda group: [EntryPoint("audit", "hindsight.audit.command:audit", "hindsight.commands")]
cli.main()
"""
ROOT = Path(__file__).resolve().parents[2]


def stopped_at_the_fourth_image(
    folder: Path, model: Artifact, how: signal.Signals, sleep: float
) -> tuple[int, str]:
    """An audit that gets the signal while one image is in hand and all before it are in the journal.

    -> its exit status and what it said.
    """
    command = [sys.executable, "-c", SLOW, "audit", "tiles", "--model", str(model.path), "--workers", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SLEEP": str(sleep)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    journal = folder / "audit-tiles" / JOURNAL
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:  # its head, fine, ghost, lacking
        assert process.poll() is None and time.monotonic() < deadline, "never came to the image it waits at"
        time.sleep(0.05)
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def test_a_killed_audit_goes_on_where_it_was(run: Run, tmp_path: Path, model: Artifact) -> None:
    write_tiles_voc(tmp_path / "tiles")
    stopped_at_the_fourth_image(tmp_path, model, signal.SIGKILL, sleep=600)
    assert not (tmp_path / "audit-tiles" / "report.html").exists()
    status, _, err = run("tiles")
    assert (status, err) == (0, "hindsight: 3 of 6 images were looked at before\n")
    assert verdicts(Path("audit-tiles")) == expected(sorted(TILES))


def test_an_interrupted_audit_says_that_it_can_go_on(run: Run, tmp_path: Path, model: Artifact) -> None:
    write_tiles_voc(tmp_path / "tiles")
    status, said = stopped_at_the_fourth_image(tmp_path, model, signal.SIGINT, sleep=3)
    assert (status, said) == (130, "hindsight: stopped; the same command goes on where it was\n")
    status, _, err = run("tiles")
    assert (status, err) == (0, "hindsight: 3 of 6 images were looked at before\n")


def test_two_audits_do_not_share_a_folder(run: Run, tmp_path: Path) -> None:
    write_tiles_voc(tmp_path / "tiles")
    run("tiles")
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); "
        "print('has it', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(Path("audit-tiles") / JOURNAL)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "has it\n"
        status, _, err = run("tiles")
        assert status == 2 and "another audit is writing to audit-tiles" in err and err.count("\n") == 1
        process.communicate()
    assert run("tiles")[0] == 0
