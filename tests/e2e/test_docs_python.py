"""docs/python.md does what it says: its examples run, in order, against a server of the shipped model."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.server_process import REPOSITORY, serving

PAGE = (REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:OpenCV:UserWarning")  # supervision announces that it does without
def test_the_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("HINDSIGHT_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    names: dict[str, Any] = {}
    with serving(tmp_path, "--model", "cells") as server:
        for block in BLOCKS:
            code = textwrap.dedent(block).replace("http://localhost:8000", server.url)
            exec(compile(code, "docs/python.md", "exec"), names)
    assert len(BLOCKS) == 8
    assert "cells" in capsys.readouterr().out
    assert len(names["again"]) == len(names["here"]) == len(names["their"]) > 5
    assert names["picture"].size == (640, 480)


def test_every_test_that_the_page_names_is_there() -> None:
    promised = re.findall(r"`(test_\w+)`", PAGE)
    files = {name for name in re.findall(r"`(tests/[\w/]+\.py)`", PAGE)}
    assert promised and files
    for file in files:
        assert (REPOSITORY / file).is_file(), file
    written = "".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))
    for name in promised:
        assert f"def {name}(" in written, name
