"""What is done stays done: through kills, torn lines and second starts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hindsight.audit.examine import Examined
from hindsight.audit.journal import FILE, Journal
from hindsight.errors import OptionError
from tests.unit.audit.made_up import examined

MADE_WITH = {
    "data set": "ants (voc, whole)",
    "model": "tiny@1#aa",
    "thresholds": {"a": 0},
    "number of views": 4,
}
SEEN = examined([(0.5, 0.25, 0.75, 1.0)], [((1, 2, 3, 4), 1, 0.5)])


def assert_same(first: Examined, second: Examined) -> None:
    for part in ("opinions", "own"):
        for name, column in vars(getattr(first, part)).items():
            np.testing.assert_array_equal(column, getattr(getattr(second, part), name))
    assert first.full == second.full


def test_what_was_added_is_there_after_a_second_start(tmp_path: Path) -> None:
    with Journal(tmp_path, MADE_WITH) as journal:
        journal.add("s1", "a.png", SEEN)
        assert "s1" in journal
        assert_same(journal.read("s1"), SEEN)
        assert not journal.earlier
    with Journal(tmp_path, MADE_WITH) as journal:
        assert journal.earlier == {"a.png": "s1"}
        assert_same(journal.read("s1"), SEEN)
        journal.add("s2", "b.png", SEEN)
        assert len(journal) == 2
        with pytest.raises(KeyError):
            journal.read("s3")


def test_an_image_without_boxes_survives(tmp_path: Path) -> None:
    nothing = examined([], [])
    with Journal(tmp_path, MADE_WITH) as journal:
        journal.add("s", "a.png", nothing)
    with Journal(tmp_path, MADE_WITH) as journal:
        assert_same(journal.read("s"), nothing)
        assert journal.read("s").own.boxes.shape == (0, 4)


@pytest.mark.parametrize("cut", [1, 20, -1, -40])
def test_a_line_that_a_kill_tore_is_cut_off(tmp_path: Path, cut: int) -> None:
    with Journal(tmp_path, MADE_WITH) as journal:
        journal.add("s1", "a.png", SEEN)
        whole = (tmp_path / FILE).read_bytes()
        journal.add("s2", "b.png", SEEN)
    line = (tmp_path / FILE).read_bytes()[len(whole) :]
    (tmp_path / FILE).write_bytes(whole + line[:cut])
    with Journal(tmp_path, MADE_WITH) as journal:
        assert "s1" in journal and "s2" not in journal
        journal.add("s2", "b.png", SEEN)
    assert (tmp_path / FILE).read_bytes() == whole + line


def test_a_torn_first_line_begins_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"format":2,"mod')
    with Journal(tmp_path, MADE_WITH) as journal:
        journal.add("s1", "a.png", SEEN)
    first, _ = (tmp_path / FILE).read_text().splitlines()
    assert json.loads(first) == {"format": 2, **MADE_WITH}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other@2#bb"}, "with another model (tiny@1#aa, now other@2#bb)"),
        ({"data set": "bees (voc, whole)"}, "with another data set (ants (voc, whole), now bees"),
        ({"number of views": 1}, "with another number of views (4, now 1)"),
        ({"thresholds": {"a": 1}}, 'with other thresholds ({"a": 0}, now {"a": 1})'),
    ],
)
def test_a_journal_of_something_else_is_refused_and_kept(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with Journal(tmp_path, MADE_WITH) as journal:
        journal.add("s1", "a.png", SEEN)
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(OptionError) as caught:
        Journal(tmp_path, {**MADE_WITH, **change})
    assert message in str(caught.value) and "--restart" in str(caught.value)
    assert (tmp_path / FILE).read_bytes() == before
    with Journal(tmp_path, {**MADE_WITH, **change}, restart=True) as journal:
        assert len(journal) == 0


def test_a_journal_of_an_older_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps({"format": 1, **MADE_WITH}) + "\n")
    with pytest.raises(OptionError, match=r"another format \(1, now 2\): --restart"):
        Journal(tmp_path, MADE_WITH)


def test_one_audit_at_a_time_has_a_folder(tmp_path: Path) -> None:
    with Journal(tmp_path, MADE_WITH), pytest.raises(OptionError, match="another audit is writing"):
        Journal(tmp_path, MADE_WITH)
    Journal(tmp_path, MADE_WITH).close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="cannot be written"):
        Journal(tmp_path / "nowhere", MADE_WITH)


@pytest.mark.parametrize("content", ["epoch 1: loss 0.5\n", "notes", '["a", "list"]\n'])
def test_a_file_that_is_no_journal_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(OptionError, match="no journal of an audit"):
        Journal(tmp_path, MADE_WITH)
    assert (tmp_path / FILE).read_text() == content
    with Journal(tmp_path, MADE_WITH, restart=True) as journal:
        assert len(journal) == 0
