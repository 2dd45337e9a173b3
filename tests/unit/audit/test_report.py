"""The page as a file: nothing of a data set's texts is code, everything it needs is in it or beside it."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from hindsight.audit.judge import Judged, Missing, OwnBox
from hindsight.audit.reasons import reason
from tests.audit_sets import TILES, call_audit, write_tiles_voc
from tests.factories import make_tiny_artifact

HOSTILE = "</script><b>{{data}} & \u2028"


class Parts(HTMLParser):
    """Every element's name and attributes, and the text of scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self._key: str | None = None

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._key = f"{tag}:{dict(attributes).get('type') or ''}"

    def handle_endtag(self, tag: str) -> None:
        self._key = None

    def handle_data(self, data: str) -> None:
        if self._key is not None:
            self.inside[self._key] = self.inside.get(self._key, "") + data


@pytest.fixture
def page(tmp_path: Path) -> tuple[Parts, Path]:
    """The report of a set whose name and classes are markup."""
    root = write_tiles_voc(tmp_path / "{{data}} <i>")
    for file in (root / "Annotations").iterdir():
        file.write_text(file.read_text().replace(">red<", f">{html.escape(HOSTILE)}<"))
    model = make_tiny_artifact(tmp_path / "tiny", integrity=1.0)
    out = tmp_path / "out"
    assert (
        call_audit(str(root), "--model", str(model.path), "--out", str(out), "--map", f"{HOSTILE}=red") == 0
    )
    parts = Parts()
    parts.feed((out / "report.html").read_text(encoding="utf-8"))
    return parts, out


def test_texts_of_the_data_set_are_no_markup(page: tuple[Parts, Path]) -> None:
    parts, _ = page
    data = json.loads(parts.inside["script:application/json"])
    assert data["categories"][0]["name"] == HOSTILE.strip()
    assert data["data"] == "{{data}} <i>"
    assert "{{" not in parts.inside["script:"] and "b" not in [tag for tag, _ in parts.elements if tag == "i"]


def test_only_its_own_script_and_style_may_run(page: tuple[Parts, Path]) -> None:
    parts, _ = page
    policy = next(
        own["content"] for tag, own in parts.elements if own.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None and "default-src 'none'" in policy and "unsafe" not in policy
    for kind, key in (("script-src", "script:"), ("style-src", "style:")):
        digest = base64.b64encode(hashlib.sha256(parts.inside[key].encode()).digest()).decode()
        assert f"{kind} 'sha256-{digest}'" in policy
    assert not [
        own for _, own in parts.elements if "style" in own or any(name.startswith("on") for name in own)
    ]


def test_nothing_is_fetched_and_every_picture_is_there(page: tuple[Parts, Path]) -> None:
    parts, out = page
    assert not [own for tag, own in parts.elements if tag in ("link", "img", "iframe") or "src" in own]
    data = json.loads(parts.inside["script:application/json"])
    assert all((out / item["picture"]).is_file() for item in data["items"])
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", parts.inside["script:"])
    assert len(data["items"]) == sum(len(rows) for rows in TILES.values()) + 1


def judged(**changes: object) -> Judged:
    values = {
        "verdict": "loose", "suspicion": 0.6, "iou": 0.5, "purity": 0.6, "integrity": 0.9, "class_score": 0.1,
        "other_label": 2, "other_score": 0.9, "background": 0.38, "outside": 0.25, "own": None, "twin": None,
    }  # fmt: skip
    return Judged(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (judged(), "Too large: about 38 % of this box is background."),
        (judged(verdict="cut"), "Cut: about 25 % of the object lies outside this box."),
        (
            judged(verdict="shifted"),
            "about 38 % of the box is background, and 25 % of the object lies outside",
        ),
        (judged(verdict="wrong class"), "Looks like a WBC (class score 0.90) and not like an RBC (0.10)."),
        (judged(verdict="duplicate", twin=1), "The same object as annotation 17"),
        (
            judged(verdict="no object"),
            "Nothing here looks like an object: RBC gets a class score of 0.10, WBC 0.90",
        ),
        (judged(verdict="fine"), "Fits: predicted IoU 0.50."),
        (
            Missing(0.9, OwnBox((0, 0, 1, 1), 0, 0.9, 0.9, 0.0)),
            "The model is sure of a platelet here (score 0.90)",
        ),
    ],
)
def test_verdicts_in_plain_words(said: Judged | Missing, text: str) -> None:
    assert text in reason(said, ("platelet", "RBC", "WBC"), "RBC", 17)
