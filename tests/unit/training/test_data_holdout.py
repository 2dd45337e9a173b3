"""Holding out validation images by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindsight.datasets.problems import DatasetError
from hindsight.errors import OptionError
from tests.unit.training.data_sets import voc_object, write_voc
from training.data.dataset import Dataset, open_dataset
from training.data.holdout import hold_out
from training.evaluate_command import _open
from training.train_sets import open_sets

NAMES = [f"board-{number:02d}" for number in range(40)]


def boards(folder: Path, names: list[str]) -> Dataset:
    """A VOC folder with one object an image."""
    root = write_voc(folder, {name: [voc_object("hole", 4, 4, 20, 20)] for name in names})
    (root / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{name}\n" for name in names))
    return open_dataset(root, split="train")


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return boards(tmp_path_factory.mktemp("boards") / "voc", NAMES)


@given(share=st.floats(0.1, 0.9))
def test_every_image_lies_on_one_side_and_sides_have_about_their_share(forty: Dataset, share: float) -> None:
    rest, held = hold_out(forty, share)
    assert rest.files() | held.files() == forty.files()
    assert not rest.files() & held.files()
    assert abs(len(held) / 40 - share) < 0.25  # three standard deviations of 40 coins


@given(shares=st.tuples(st.floats(0.1, 0.9), st.floats(0.1, 0.9)))
def test_a_larger_share_holds_what_a_smaller_one_does(forty: Dataset, shares: tuple[float, float]) -> None:
    small, large = sorted(shares)
    assert hold_out(forty, small)[1].files() <= hold_out(forty, large)[1].files()


def test_a_set_that_grows_and_moves_keeps_its_sides(forty: Dataset, tmp_path: Path) -> None:
    fewer = boards(tmp_path / "voc", NAMES[30:10:-1])
    names = {path.name for path in hold_out(forty, 0.3)[1].files()}
    expected = names & {path.name for path in fewer.files()}
    assert {path.name for path in hold_out(fewer, 0.3)[1].files()} == expected
    assert 0 < len(expected) < 20


def test_an_empty_side_is_refused(tmp_path: Path) -> None:
    one = boards(tmp_path / "voc", NAMES[:1])
    with pytest.raises(DatasetError, match="leaves one side empty: name validation data"):
        hold_out(one, 0.5)


def test_training_holds_out_what_evaluation_measures(tmp_path: Path) -> None:
    forty = boards(tmp_path / "voc", NAMES)
    root = tmp_path / "voc"
    training, validation = open_sets(root, None, None, None, None, None, False, val_share=0.25)
    assert validation is not None
    measured = _open(
        root, forty.class_names, False, val_share=0.25, split="train", images=None, skip_bad=False
    )
    assert measured.files() == validation.files()
    assert training.files() == forty.files() - validation.files()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_share": 1.0}, "--val-share must lie between 0 and 1, got 1.0"),
        ({"val_share": float("nan")}, "--val-share must lie between 0 and 1, got nan"),
        ({"val_share": 0.2, "val_split": "val"}, "goes without --val-data and --val-split"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused(
    tmp_path: Path, options: dict[str, object], message: str
) -> None:
    named = {"val_data": None, "val_images": None, "val_split": None, **options}
    with pytest.raises(OptionError, match=message):
        open_sets(tmp_path, None, None, skip_bad=False, **named)  # type: ignore[arg-type]
