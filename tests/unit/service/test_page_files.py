"""The page's files: packed for who takes that, not sent again to who has them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from service.page_files import FOLDER, PageFile, page_files


@pytest.fixture
def script() -> PageFile:
    return page_files()["page.js"]


def test_every_file_of_the_page_is_there_with_its_type() -> None:
    files = page_files()
    assert set(files) == {path.name for path in FOLDER.iterdir() if path.is_file()}
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
    for name, file in files.items():
        assert file.plain == (FOLDER / name).read_bytes()
        assert file.answer({}).headers["content-type"] == f"{kinds[name.rpartition('.')[2]]}; charset=utf-8"


@pytest.mark.parametrize(
    "accepted", ["gzip", "gzip, deflate, br", "br;q=1.0, gzip;q=0.8", "deflate, gzip ; q=1"]
)
def test_who_takes_gzip_gets_it(script: PageFile, accepted: str) -> None:
    answer = script.answer({"accept-encoding": accepted})
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == script.plain
    assert len(answer.body) < len(script.plain) / 2
    assert answer.headers["content-length"] == str(len(answer.body))


@pytest.mark.parametrize("accepted", ["", "br", "identity", "gzip;q=0", "gzip; q=0.0", "x-gzipped"])
def test_who_does_not_gets_it_plain(script: PageFile, accepted: str) -> None:
    answer = script.answer({"accept-encoding": accepted})
    assert "content-encoding" not in answer.headers and answer.body == script.plain
    assert answer.headers["vary"] == "Accept-Encoding"


def test_who_has_it_is_told_so_and_only_in_the_same_encoding(script: PageFile) -> None:
    packed, plain = script.answer({"accept-encoding": "gzip"}), script.answer({})
    assert packed.headers["etag"] != plain.headers["etag"]
    for accepted, first in (("gzip", packed), ("", plain)):
        for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
            again = script.answer({"accept-encoding": accepted, "if-none-match": known})
            assert (again.status_code, again.body) == (304, b"")
            assert again.headers["etag"] == first.headers["etag"]
    assert script.answer({"if-none-match": packed.headers["etag"]}).status_code == 200
    assert {first.headers["cache-control"] for first in (packed, plain)} == {"no-cache"}


def test_another_content_has_another_tag(tmp_path: Path) -> None:
    for at, text in enumerate(("one", "two")):
        (tmp_path / str(at)).mkdir()
        (tmp_path / str(at) / "a.js").write_text(text)
    one, two = (page_files(tmp_path / str(at))["a.js"] for at in range(2))
    assert one.tag != two.tag
