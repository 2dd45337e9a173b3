"""`hindsight reproduce` at toy width: rows end to end, shared training runs, kill and resume, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from click.testing import Result
from PIL import Image, ImageDraw
from typer.testing import CliRunner

from model.checkpoint import load_checkpoint
from model.detector import TwoStageDetector
from model.zoo import MODELS
from tests.recipes import tiny_recipe
from training.published import run as run_module
from training.reproduce_command import reproduce

TOY = tiny_recipe(
    {
        "rpn": {"pre_nms_train": 40, "post_nms_train": 20},
        "head": {"width": 8, "batch_per_image": 8},
        "localization": {"width": 8, "boxes_at_inference": 10},
    },
    model=None,  # that of the row
)
IMAGES = {"train2017": 4, "val2017": 3}


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder of 64 px photos with a square each."""
    root = tmp_path_factory.mktemp("coco")
    (root / "toy.toml").write_text(TOY)
    (root / "annotations").mkdir()
    rng = np.random.default_rng(0)
    for split, count in IMAGES.items():
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            picture = Image.fromarray(rng.integers(0, 80, (64, 64, 3), dtype=np.uint8))
            x, y, side = (int(v) for v in rng.integers([2, 2, 20], [30, 30, 32]))
            ImageDraw.Draw(picture).rectangle([x, y, x + side - 1, y + side - 1], fill=(220, 90, 90))
            picture.save(root / split / f"{i}.png")
            images.append({"id": i, "file_name": f"{i}.png", "width": 64, "height": 64})
            box = {"bbox": [x, y, side, side], "area": side * side, "iscrowd": 0}
            annotations.append({"id": i + 1, "image_id": i, "category_id": 7, **box})
        document = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 7, "name": "square"}],
        }
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(document))
    return root


def invoke(*arguments: str) -> Result:
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(reproduce)
    return CliRunner().invoke(app, list(arguments))


def small_run(coco: Path, out: Path, table: str, *more: str) -> Result:
    common = ["--data", str(coco), "--out", str(out), "--overrides", str(coco / "toy.toml"), "--quiet"]
    short = ["--epochs", "2", "--batch-size", "2", "--lr", "0.001", "--weights", "none", "--workers", "0"]
    return invoke(table, *common, *short, *more)


def document(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def finished(coco: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Rows 1, 2 and 6 of dir:table5: the plain detector, and two combinations of one trained head."""
    out = tmp_path_factory.mktemp("out")
    return out, small_run(coco, out, "dir:table5", "--rows", "1,integrity,6")


def test_rows_run_end_to_end_beside_the_papers_figures(finished: tuple[Path, Result]) -> None:
    out, result = finished
    assert result.exit_code == 0, result.output
    table = document(out / "dir-table5.json")
    assert [row["number"] for row in table["rows"]] == [1, 2, 6]
    for row in table["rows"]:
        ours, paper = row["ours"], row["paper"]
        assert 0 <= ours["AP"] <= ours["AP50"] <= 100
        assert row["difference"]["AP"] == pytest.approx(ours["AP"] - paper["AP"], abs=1e-3)
    assert [row["paper"]["AP"] for row in table["rows"]] == [36.4, 37.7, 38.9]
    markdown = (out / "dir-table5.md").read_text()
    assert "| 1 Faster R-CNN | paper | 36.4 | 58.0 | 39.3 |" in markdown
    assert markdown.count("| ours |") == markdown.count("| diff |") == 3
    assert "36.4" in result.stdout and "Combined IoU" in result.stdout


def test_a_small_run_says_that_it_is_not_the_papers(finished: tuple[Path, Result]) -> None:
    out, result = finished
    table = document(out / "dir-table5.json")
    assert table["comparable"] is False
    notes = table["rows"][0]["deviations"]
    for expected in (
        "epochs 2",
        "batch_size 2",
        "lr 0.001",
        "--overrides",
        "without ImageNet",
        "4 images of",
    ):
        assert any(expected in note for note in notes), expected
    assert "not the paper's schedule or data" in " ".join(result.stdout.split())
    assert "not the paper's schedule or data" in (out / "dir-table5.md").read_text()


def test_rows_that_differ_at_inference_share_a_training_run(finished: tuple[Path, Result]) -> None:
    out, _ = finished
    assert sorted(p.name.rpartition("-")[0] for p in (out / "runs").iterdir()) == [
        "faster_rcnn-tf_efficientnet_lite0",
        "faster_rcnn_dir-tf_efficientnet_lite0",
    ]
    plain, integrity, combined = document(out / "dir-table5.json")["rows"]
    assert integrity["training"] == combined["training"] != plain["training"]


def test_finished_rows_and_runs_are_not_run_again(
    coco: Path, finished: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same table needs nothing; another table with the same trainings only measures."""
    out, _ = finished
    before = document(out / "dir-table5.json")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "train", lambda run: pytest.fail("a finished run was trained again"))
        patch.setattr(run_module, "measure", lambda *a, **k: pytest.fail("a finished row was measured again"))
        again = small_run(coco, out, "dir:table5", "--rows", "1-2,6")
    assert again.exit_code == 0, again.output
    assert document(out / "dir-table5.json") == before
    monkeypatch.setattr(TwoStageDetector, "losses", lambda *a: pytest.fail("a finished run was trained on"))
    other = small_run(coco, out, "dir:figure4", "--rows", "1,4")
    assert other.exit_code == 0, other.output
    rows = document(out / "dir-figure4.json")["rows"]
    assert [row["training"] for row in rows] == [before["rows"][n]["training"] for n in (0, 1)]
    assert all("pearson" in row["ours"] for row in rows)


def test_other_settings_do_not_overwrite_what_is_there(coco: Path, finished: tuple[Path, Result]) -> None:
    out, _ = finished
    for change in (("--epochs", "1"), ("--limit", "2"), ("--seed", "1")):
        refused = small_run(coco, out, "dir:table5", "--rows", "1", *change)
        assert refused.exit_code == 2
        assert "from a run with other settings" in refused.stderr


def test_a_killed_row_goes_on_and_ends_as_if_nothing_had_happened(
    coco: Path, finished: tuple[Path, Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = TwoStageDetector.losses, [0]

    def interrupted(self: TwoStageDetector, *args: object) -> dict[str, torch.Tensor]:
        calls[0] += 1
        if calls[0] == 4:  # the last of the row's 2 x 2 steps
            raise KeyboardInterrupt
        return honest(self, *args)  # type: ignore[arg-type]

    arguments = ("dir:table5", "--rows", "2,6", "--save-every", "1")
    with monkeypatch.context() as patch:
        patch.setattr(TwoStageDetector, "losses", interrupted)
        stopped = small_run(coco, tmp_path, *arguments)
    assert stopped.exit_code == 130
    assert "the same command goes on" in stopped.stderr
    assert not (tmp_path / "dir-table5.json").exists()

    def counted(self: TwoStageDetector, *args: object) -> dict[str, torch.Tensor]:
        calls[0] += 1
        return honest(self, *args)  # type: ignore[arg-type]

    calls[0] = 0
    monkeypatch.setattr(TwoStageDetector, "losses", counted)
    resumed = small_run(coco, tmp_path, *arguments)
    assert resumed.exit_code == 0, resumed.output
    assert calls[0] == 1
    whole, _ = finished
    unbroken, broken = (
        document(whole / "dir-table5.json")["rows"][1:],
        document(tmp_path / "dir-table5.json")["rows"],
    )
    assert broken == unbroken
    (folder,) = (tmp_path / "runs").iterdir()
    ends = [load_checkpoint(out / "runs" / folder.name / "last.safetensors")[0] for out in (whole, tmp_path)]
    for key, value in ends[0].state_dict().items():
        assert torch.equal(value, ends[1].state_dict()[key]), key


def test_a_row_that_this_build_lacks_is_left_out_with_its_reason(
    coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(MODELS, "faster_rcnn_dir")
    monkeypatch.setattr(run_module, "measure", lambda *a, **k: {"AP": 1.0, "AP50": 2.0, "AP75": None})
    monkeypatch.setattr(run_module, "train", lambda run: None)
    asked = small_run(coco, tmp_path, "dir:table5", "--rows", "1-2")
    assert asked.exit_code == 2
    assert (
        "row 2 of dir:table5 (Integrity) can't be run: it needs the detector 'faster_rcnn_dir'"
        in asked.stderr
    )
    whole = small_run(coco, tmp_path, "dir:table5")
    assert whole.exit_code == 0, whole.output
    assert "left out: row 2 of dir:table5 (Integrity)" in whole.stderr
    rows = document(tmp_path / "dir-table5.json")["rows"]
    assert rows[0]["ours"]["AP75"] is None and rows[0]["difference"]["AP75"] is None
    assert rows[1]["ours"] is None and "'faster_rcnn_dir'" in rows[1]["not_run"]


def test_the_list_shows_tables_and_rows() -> None:
    listed = invoke("--list")
    assert listed.exit_code == 0, listed.output
    for text in ("dir:table3", "drcnn:table9", "Hindsight P&I", "NMS_reg 0.95", "incomplete:"):
        assert text in listed.stdout
    one = invoke("dir:table3", "--list")
    assert "Hindsight IoU at 3 x lr" in one.stdout and "drcnn" not in one.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "reproduce needs TABLE, --data and --out"),
        (["dir:table9"], "unknown table 'dir:table9': known are dir:table1"),
        (["dir:table5", "--rows", "9"], "dir:table5 has no row '9'"),
        (["dir:table5", "--data", "nowhere"], "expected COCO"),
        (["dir:table5", "--device", "cuda:7"], "device 'cuda:7' can't be used"),
        (["dir:table5", "--amp", "fp8"], "amp must be"),
        (["dir:table5", "--lr", "-1"], "lr must be positive"),
        (["dir:table5", "--overrides", "nowhere.toml"], "no overrides 'nowhere.toml'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    coco: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    given = [*arguments]
    if given:
        for option, value in (("--data", str(coco)), ("--out", str(tmp_path))):
            given += [] if option in given else [option, value]
    result = invoke(*given)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
