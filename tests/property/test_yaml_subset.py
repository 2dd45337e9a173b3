"""Whatever PyYAML writes for a data.yaml, our strict reader reads as PyYAML does; no text makes it crash."""

from __future__ import annotations

import string

import yaml
from hypothesis import given
from hypothesis import strategies as st

from hindsight.datasets.yaml_subset import YamlError, read_keys

printable = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)
names = st.lists(printable, min_size=1, max_size=6)
styles = st.sampled_from([None, "'", '"'])


@given(names, st.booleans(), styles, st.booleans(), st.sampled_from([20, 80, 1000]))
def test_names_come_back_as_they_were_written(
    given_names: list[str], flow: bool, style: str | None, numbered: bool, width: int
) -> None:
    value = dict(enumerate(given_names)) if numbered else given_names
    document = {"train": "images/train", "names": value, "nc": len(given_names)}
    text = yaml.safe_dump(
        document, default_flow_style=flow or None, default_style=style, allow_unicode=True, width=width
    )
    if flow:  # one mapping in braces is not a file with keys at its left edge
        text = "train: images/train\nnames: " + yaml.safe_dump(
            value, default_flow_style=True, default_style=style, allow_unicode=True, width=width
        )
    if "!!" in text or "? " in text:  # PyYAML marks numbers in quotes, and long keys, in ways we refuse
        return
    found = read_keys(text, ("names", "train"))
    expected = {str(key): name for key, name in value.items()} if isinstance(value, dict) else value
    assert found["names"].content == expected
    assert found["train"].content == "images/train"


@given(st.text(alphabet=string.ascii_letters[:4] + " \t\n:-[]{},'\"#&*!|>%@`?~\\0", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        found = read_keys(text, ("a", "b"))
    except YamlError as error:
        assert 1 <= error.line <= text.count("\n") + 1
    else:
        assert set(found) <= {"a", "b"}


@given(st.dictionaries(st.sampled_from("abcd"), st.text(alphabet="xyz :#'\"-", max_size=12), min_size=1))
def test_texts_are_read_as_pyyaml_reads_them(document: dict[str, str]) -> None:
    text = yaml.safe_dump(document, default_flow_style=False)
    found = read_keys(text, tuple("abcd"))
    loaded = yaml.safe_load(text)
    assert {key: value.content for key, value in found.items()} == loaded
