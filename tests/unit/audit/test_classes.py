"""Which class of the model a class of the data set is, and what is said where that is unclear."""

from __future__ import annotations

import pytest

from hindsight.audit.classes import NOT_JUDGED, map_classes, parse_mapping
from hindsight.errors import OptionError

MODEL = ("Platelets", "RBC", "WBC")


def test_classes_of_one_name_are_the_same() -> None:
    assert map_classes(("WBC", "RBC"), MODEL, {}, ()) == (2, 1)


def test_classes_are_renamed_and_left_out() -> None:
    renamed = parse_mapping(["red=cell=RBC", " white = WBC "])
    assert renamed == {"red=cell": "RBC", "white": "WBC"}
    assert map_classes(("red=cell", "white", "dust"), MODEL, renamed, ("dust",)) == (1, 2, NOT_JUDGED)


def test_two_classes_may_be_one_to_the_model() -> None:
    assert map_classes(("big", "small"), MODEL, {"big": "RBC", "small": "RBC"}, ()) == (1, 1)


@pytest.mark.parametrize(
    ("data", "renamed", "skipped", "message"),
    [
        (
            ("rbc", "dust"),
            {},
            (),
            'does not know the data set\'s rbc, dust .*--map "rbc=RBC".*--skip-class "rbc"',
        ),
        (("RBC",), {"RBD": "RBC"}, (), "--map: the data set has no class 'RBD' .did you mean 'RBC'"),
        (("red",), {"red": "RBCs"}, (), "--map: the model knows no 'RBCs' .did you mean 'RBC'"),
        (("RBC",), {}, ("WBC",), "--skip-class: the data set has no class 'WBC'"),
        (("RBC",), {"RBC": "WBC"}, ("RBC",), "both name RBC"),
    ],
)
def test_what_is_unclear_is_an_error_that_says_what_to_do(
    data: tuple[str, ...], renamed: dict[str, str], skipped: tuple[str, ...], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        map_classes(data, MODEL, renamed, skipped)


@pytest.mark.parametrize("text", ["RBC", "=RBC", "red=", ""])
def test_a_mapping_without_two_names_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="--map takes"):
        parse_mapping([text])
    with pytest.raises(OptionError, match="twice"):
        parse_mapping(["a=RBC", "a=WBC"])
