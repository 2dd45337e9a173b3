"""The strict reader of a few YAML keys: what it takes, what it skips, what it refuses and where."""

from __future__ import annotations

import pytest
import yaml

from hindsight.datasets.yaml_subset import YamlError, read_keys

WANTED = ("names", "path", "train", "val", "test")

DATA = """\
# Ultralytics writes such files
%s
path: ../datasets/ants  # relative to here
train: images/train
val:   'images/val'
test:  # optional
nc: 3

names:
  0: ant
  1: "worker \\u0062ee"   # escapes
  2: it''s a moth

download: |
  import os
  names: not a key
roboflow:
  workspace: x
  tags: [a, {b: c}]
"""


def contents(text: str) -> dict[str, object]:
    return {name: value.content for name, value in read_keys(text, WANTED).items()}


@pytest.mark.parametrize("start", ["", "---", "--- # one document"])
def test_a_file_as_ultralytics_writes_it(start: str) -> None:
    assert contents(DATA % start) == {
        "path": "../datasets/ants",
        "train": "images/train",
        "val": "images/val",
        "test": None,
        "names": {"0": "ant", "1": "worker bee", "2": "it''s a moth"},
    }


def test_the_line_of_every_key_is_known() -> None:
    values = read_keys(DATA % "---", WANTED)
    assert {name: value.line for name, value in values.items()} == {
        "path": 3, "train": 4, "val": 5, "test": 6, "names": 9,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "names: [ant, bee]",
        "names: ['ant', \"bee\",]",
        "names: [ # which\n  ant, # one\n  bee\n]\n",
        "names:\n- ant\n- bee\n",
        "names:\n  - ant\n  - 'bee' # last\n",
        "names:\n\n  # a comment\n  - ant\n\n  - bee\ntrain: x",
        "names:\n  [ant,\n   bee]\n",
        "names: [ant, bee]\r\ntrain: x\r\n",
        '"names": [ant, bee]',
    ],
)
def test_lists_in_every_style(text: str) -> None:
    found = read_keys(text, WANTED)["names"].content
    assert found == ["ant", "bee"] == yaml.safe_load(text)["names"]


@pytest.mark.parametrize(
    "text",
    [
        "names: {0: ant, 1: bee}",
        'names: {"0":ant, "1":"bee"}',
        "names:\n  0: ant\n  1: bee",
        "names: {0: ant,\n  1: bee}\n",
    ],
)
def test_mappings_in_both_styles(text: str) -> None:
    assert read_keys(text, WANTED)["names"].content == {"0": "ant", "1": "bee"}


def test_everything_stays_text() -> None:
    assert contents("names: [yes, no, 1, 1.0, null]\npath: ~\ntrain: 'null'") == {
        "names": ["yes", "no", "1", "1.0", "null"],
        "path": None,
        "train": "null",
    }


@pytest.mark.parametrize(
    "text",
    [
        "train: a text\n  over two lines\n",
        "train: 'quoted\n  over two\n\n  and a paragraph'",
        'train: "joined\\\n   up \\\n  \\ twice"',
        "train: http://host/a:b#c",
        "train:\n  below",
        "train: a#b 'c' [d] {e}",
    ],
)
def test_texts_are_read_as_pyyaml_reads_them(text: str) -> None:
    assert contents(text)["train"] == yaml.safe_load(text)["train"]


def test_what_was_not_asked_for_is_skipped_whatever_it_holds() -> None:
    text = (
        "a: &anchor\n  deep:\n  - - 1\nb: *anchor\nc: !!python/object:os.system x\nd: >\n  names: no\n\n"
        "  more\n"
        "e: [1,\n{f: ']'}]\nf: 'x\n  names: no'\nnames: [ant]\n"
    )
    assert contents(text) == {"names": ["ant"]}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nnames: *other", 2, "an alias"),
        ("names: &x [ant]", 1, "an anchor"),
        ("names: !!set {ant}", 1, "a tag"),
        ("\npath: |\n  ant\n", 2, "a block of text"),
        ("names: [[ant]]", 1, "inside one another"),
        ("names:\n  - [ant]", 2, "lists in lists"),
        ("names:\n  - - ant", 2, "lists in lists"),
        ("names:\n  0:\n    ant: 1", 2, "expected a text behind the colon"),
        ("names: [ant", 1, "expected a comma or ]"),
        ("names: [ant}\n", 1, "expected a comma or ]"),
        ("names: {0: ant, 0: bee}", 1, "come once"),
        ("names: {ant}", 1, "expected a colon"),
        ("names: 'ant", 1, "a quote is opened"),
        ("names: 'ant' bee", 1, "expected nothing more"),
        ("names: ant: bee", 1, "a colon inside a text"),
        ('path: "\\q"', 1, "means nothing in quotes"),
        ('path: "\\UFFFFFFFF"', 1, "is no character"),
        ("train: a\n\ntrain: b", 3, "comes twice (first on line 1)"),
        ("names:\n\t- ant", 2, "a tab"),
        ("names:\n  0: ant\n    1: bee", 3, "a colon inside a text"),
        ("names:\n- ant\n  - bee: 1\n", 3, "a colon inside a text"),
        ("- ant", 1, "expected a key"),
        ("  names: [ant]", 1, "expected a key"),
        ("just a text", 1, "expected a key"),
        ("train: x\n---\nval: y", 2, "one document"),
        ("names: " + "[" * 5000, 1, "nested too deeply"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(YamlError) as caught:
        read_keys(text, WANTED)
    assert message in str(caught.value)
    assert caught.value.line == line
