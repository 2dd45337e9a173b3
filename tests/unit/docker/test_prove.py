"""What `make docker-proof` reads and builds with, as far as neither root nor network is needed."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from docker.prove.build import Builder, Image
from docker.prove.dockerfile import DockerfileError, UnknownSyntax, expand, pairs, parse
from docker.prove.ignore import Ignore, context_files
from docker.prove.sizes import packages_by_size, tree_size


def test_lines_are_joined_and_comments_dropped() -> None:
    text = "# top\nARG A=1\nFROM base:${A} AS one\nRUN a \\\n    # inside\n    && b\nFROM one\nUSER 1\n"
    head, stages = parse(text)
    assert [each.arguments for each in head] == ["A=1"]
    assert [(stage.name, stage.base, stage.line) for stage in stages] == [
        ("one", "base:${A}", 3),
        ("1", "one", 7),
    ]
    (run,) = stages[0].instructions
    assert run.arguments.split() == ["a", "&&", "b"] and run.line == 4


@pytest.mark.parametrize(
    "line",
    [
        "ADD a b",
        "ONBUILD RUN a",
        "VOLUME /data",
        'SHELL ["/bin/bash"]',
        "MAINTAINER me",
        "COPY --link a b",
        "COPY --exclude=x a b",
        "RUN --network=none a",
        "RUN <<EOF",
        "HEALTHCHECK --start-interval=1s CMD a",
        "FROM --platform=linux/amd64 other",
    ],
)
def test_what_is_not_understood_is_an_error(line: str) -> None:
    with pytest.raises(UnknownSyntax, match="line 2"):
        parse(f"FROM base\n{line}\n")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no FROM"),
        ("RUN a\nFROM b\n", "before the first FROM"),
        ("FROM a AS x\nFROM b AS x\n", "second stage named x"),
        ("FROM a as\n", "FROM IMAGE"),
        ("FROM a\nRUN b \\\n", "ends in a backslash"),
        ("FROM a\nRUN\n", "without arguments"),
    ],
)
def test_what_is_wrong_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(DockerfileError, match=reason):
        parse(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$A/${B}", "1/"),
        ("${B:-x} ${A:-x}", "x 1"),
        ("${A:+y}${B:+y}", "y"),
        (r"\$A", "$A"),
    ],
)
def test_variables(text: str, expected: str) -> None:
    assert expand(text, {"A": "1"}, 1) == expected


@pytest.mark.parametrize("text", ["${A#x}", "$(pwd)", "${A:=x}", "$"])
def test_other_substitutions_are_an_error(text: str) -> None:
    with pytest.raises(UnknownSyntax):
        expand(text, {"A": "1"}, 1)


def test_pairs_keep_quoted_spaces() -> None:
    (instruction,) = parse('FROM a\nENV A=1 B="two words" C=\n')[1][0].instructions
    assert pairs(instruction) == [("A", "1"), ("B", "two words"), ("C", "")]


def test_the_last_pattern_that_matches_decides() -> None:
    ignore = Ignore("*\n!src\nsrc/*.so\n**/__pycache__\n!src/keep.so\n# comment\n")
    out = ["README", "src/a.so", "src/deep/__pycache__/a.pyc", "other/src/a"]
    let_in = ["src/a.py", "src/deep/a.so", "src/keep.so"]
    assert all(map(ignore.excludes, out)) and not any(map(ignore.excludes, let_in))


def test_a_link_in_the_context_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="a is a link"):
        list(context_files(tmp_path, Ignore("")))


class Folders(Builder):
    """Without a Debian and without running anything: a base is a folder, RUN notes its command."""

    def __init__(self, work: Path, context: dict[str, Path]) -> None:
        self.ran: list[str] = []
        super().__init__(work, work / "bases", context, {}, io.BytesIO(), lambda line: None)

    def _base(self, name: str) -> Path:
        root = self._work / "base"
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nserver:x:7:8::/srv:/bin/false\n")
        (root / "etc/group").write_text("root:x:0:\nserver:x:8:\n")
        return root

    def _run(self, image: Image, instruction: object) -> None:
        self.ran.append(str(instruction))


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folders:
    monkeypatch.setattr(os, "chown", lambda *_: None)  # tests may run as anybody
    source = tmp_path / "source"
    (source / "pkg/sub").mkdir(parents=True)
    for name in ("one.txt", "pkg/a.py", "pkg/sub/b.py"):
        (source / name).write_text(name)
    context = {path: source / path for path in context_files(source, Ignore(""))}
    (tmp_path / "work").mkdir()
    return Folders(tmp_path / "work", context)


def test_copy_puts_files_where_docker_does(folders: Folders) -> None:
    image = folders.build(
        "FROM base AS first\nWORKDIR /app\nWORKDIR inner\n"
        "COPY one.txt ./\nCOPY one.txt two.txt\nCOPY pkg pkg\n"
        "FROM base\nCOPY --from=first /app/inner /copy\nCOPY --from=first /app/inner/one.txt /there/\n"
    )
    found = {path.relative_to(image.root).as_posix() for path in image.root.rglob("*") if path.is_file()}
    assert found - {"etc/passwd", "etc/group"} == {
        "copy/one.txt", "copy/two.txt", "copy/pkg/a.py", "copy/pkg/sub/b.py", "there/one.txt"
    }  # fmt: skip


@pytest.mark.parametrize(
    "line", ["COPY missing /", "COPY --from=nowhere /a /b", "COPY *.txt /", "COPY --chown=1 one.txt /"]
)
def test_a_copy_that_cannot_be_done_is_an_error(folders: Folders, line: str) -> None:
    with pytest.raises(DockerfileError, match="line 2"):
        folders.build(f"FROM base\n{line}\n")


def test_settings_go_on_into_the_next_stage_and_arguments_do_not(folders: Folders) -> None:
    image = folders.build(
        "ARG BASE=base\nFROM ${BASE} AS first\nARG BASE\nENV A=${BASE} PATH=/mine:$PATH\n"
        "USER server\nRUN id\n"
        'FROM first\nENV B=[${BASE}] C=${A}\nEXPOSE 1 2\nENTRYPOINT ["x"]\nCMD y z\n'
        "HEALTHCHECK --interval=1s CMD probe\nSTOPSIGNAL SIGINT\n"
    )
    assert image.env["A"] == "base" and image.env["B"] == "[]" and image.env["C"] == "base"
    assert image.env["PATH"].startswith("/mine:/usr/local/sbin:")
    assert image.user == "server" and image.exposed == ["1", "2"] and image.stop_signal == "SIGINT"
    assert image.entrypoint == ["x"] and image.command == ["/bin/sh", "-c", "y z"]
    assert image.healthcheck == ["/bin/sh", "-c", "probe"] and image.health_options == {"interval": "1s"}
    assert folders.ran == ["RUN id"]
    assert [step["stage"] for step in folders.steps].count("1") == 7


def test_a_base_that_nothing_stands_in_for_is_an_error(tmp_path: Path) -> None:
    builder = Builder(tmp_path, tmp_path / "bases", {}, {}, io.BytesIO(), lambda line: None)
    with pytest.raises(DockerfileError, match="no stand-in for the base image 'python:2'"):
        builder.build("FROM python:2\n")


def test_a_file_with_two_names_weighs_once(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(100))
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").symlink_to("a")
    assert tree_size(tmp_path) == 100


def test_a_package_weighs_what_its_record_names_and_its_bytecode(tmp_path: Path) -> None:
    (tmp_path / "pkg/__pycache__").mkdir(parents=True)
    (tmp_path / "pkg/a.py").write_bytes(bytes(10))
    (tmp_path / "pkg/__pycache__/a.cpython-311.pyc").write_bytes(bytes(20))
    info = tmp_path / "pkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pkg\nVersion: 1.0\n")
    (info / "RECORD").write_text("pkg/a.py,,\n")
    assert packages_by_size(tmp_path) == {"pkg": ("1.0", 30)}
