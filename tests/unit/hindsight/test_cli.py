"""The program `hindsight`: what is wrong with how it is called is one line on stderr and exit status 2."""

from __future__ import annotations

import sys

import pytest

from hindsight.cli import main

COMMANDS = [
    "detect",
    "audit",
    "models",
    "pull",
    "serve",
    "train",
    "evaluate",
    "reproduce",
    "export",
    "parity",
    "import",
]


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["hindsight", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


def assert_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """-> the one line."""
    assert called(monkeypatch, *words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("hindsight: ")
    return line


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_option_of_every_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    line = assert_refused(monkeypatch, capsys, command, "--nonsense")
    assert line.startswith(f"hindsight: {command}: No such option: --nonsense")
    assert line.endswith(f"hindsight {command} --help says what it takes")


@pytest.mark.parametrize(
    "command", [name for name in COMMANDS if name not in ("models", "serve", "reproduce")]
)
def test_an_argument_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    line = assert_refused(monkeypatch, capsys, command)
    assert f"hindsight: {command}: Missing " in line


@pytest.mark.parametrize("command", ["models", "serve", "train", "evaluate", "export", "parity", "import"])
def test_an_argument_too_many(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert_refused(monkeypatch, capsys, command, *["surplus"] * 9)


@pytest.mark.parametrize(
    "words",
    [
        ["detect", "photo.jpg", "--score-threshold", "high"],
        ["serve", "--port", "eight"],
        ["train", "--epochs", "many"],
        ["evaluate", "cells", "--threads", "0"],
        ["reproduce", "dir:table3", "--seed", "x"],
        ["export", "best.safetensors", "--iou-weight", "half"],
        ["parity", "cells", "--batch", "0"],
        ["import", "weights.pth", "--short-side", "8"],
    ],
)
def test_a_bad_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    line = assert_refused(monkeypatch, capsys, *words)
    assert line.startswith(f"hindsight: {words[0]}: Invalid value for '{words[-2]}': ")
    no_value = assert_refused(monkeypatch, capsys, *words[:-1])
    assert words[-2] in no_value


def test_an_unknown_command_and_the_nearest_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = assert_refused(monkeypatch, capsys, "exprot", "cells", "--to", "tensorrt")
    assert line == "hindsight: no command 'exprot'; did you mean export?"
    line = assert_refused(monkeypatch, capsys, "zzz")
    assert "no command 'zzz'; there are: detect, audit, models, " in line
    line = assert_refused(monkeypatch, capsys, "--nonsense", "detect")
    assert line.startswith("hindsight: No such option: --nonsense")


def test_what_is_no_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--version"], ["models", "--help"], ["keys"], ["--help"], []):
        assert called(monkeypatch, *words) == 0
        captured = capsys.readouterr()
        assert captured.out and not captured.err
    assert "detect" in captured.out and "Usage" in captured.out


def test_a_flags_help_names_no_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    helps = (["--help"], "--version"), (["--help"], "--help"), (["detect", "--help"], "--json")
    for words, flag in (*helps, (["detect", "--help"], "--help")):
        called(monkeypatch, *words)
        (row,) = (line for line in capsys.readouterr().out.splitlines() if line.strip("│ ").startswith(flag))
        assert "<" not in row and "BOOL" not in row
