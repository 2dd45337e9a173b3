"""Where settings come from, and what is said of those that are wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from hindsight.errors import OptionError
from service.config import OTHER_VARIABLES, is_secret, read_configuration
from service.config_show import (
    configuration_json,
    grouped_names,
    settings_markdown,
    with_settings,
)
from service.settings import GROUPS, Settings

ROOT = Path(__file__).parents[3]


def write(folder: Path, text: str) -> Path:
    path = folder / "hindsight.toml"
    path.write_text(text)
    return path


def refusal(**given: object) -> str:
    with pytest.raises(OptionError) as caught:
        read_configuration(**{"environment": {}, **given})  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_flags_win_over_the_environment_which_wins_over_the_file_which_wins_over_defaults(
    tmp_path: Path,
) -> None:
    file = write(
        tmp_path,
        '# a comment\nport = 1\nmax_queue = 131\n\ntimeout = 3.5\nmodel = ["a", "b"]\nbackend = "x"\n',
    )
    environment = {"HINDSIGHT_PORT": "2", "HINDSIGHT_MAX_QUEUE": "132", "HINDSIGHT_TIMEOUT": ""}
    found = read_configuration({"port": 3, "host": None}, ["backend=sleep:1"], file, environment)
    settings = found.settings
    assert (settings.port, settings.max_queue, settings.timeout) == (3, 132, 3.5)
    assert (settings.model, settings.backend, settings.host) == (("a", "b"), "sleep:1", "127.0.0.1")
    assert (
        found.sources
        | {
            "port": "flag --port",
            "max_queue": "environment HINDSIGHT_MAX_QUEUE",
            "timeout": f"file {file}:5",
            "model": f"file {file}:6",
            "backend": "flag --set backend",
            "host": "default",
        }
        == found.sources
    )
    assert set(found.sources) == set(Settings.model_fields)


def test_the_environment_may_name_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "port = 17\n")
    assert read_configuration(environment={"HINDSIGHT_CONFIG": str(file)}).settings.port == 17


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("prot = 1\n", ":1: there is no setting 'prot' (did you mean 'port'?)"),
        ("port = 1\n[server]\nhost = 'x'\n", ":2: there is no setting 'server'"),
        ("[port]\nnumber = 1\n", ":1: port is a table"),
        ("host = 'x'\nport = 'many'\n", ":2): Input should be a valid integer"),
        ("port = 70000\n", "port 70000 (file"),
        ("port = \n", "is not TOML"),
        ("threads = true\ntimeout = nan\n", "timeout"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    assert words in refusal(file=write(tmp_path, text))


def test_a_settings_file_that_is_not_there_or_not_text_is_an_error(tmp_path: Path) -> None:
    assert "No such file" in refusal(file=tmp_path / "none.toml")
    path = tmp_path / "hindsight.toml"
    path.write_bytes(b"host = '\xff'\n")
    assert "UTF-8" in refusal(file=path)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("HINDSIGHT_MAX_QEUE", "1", "'HINDSIGHT_MAX_QEUE' (did you mean 'HINDSIGHT_MAX_QUEUE'?)"),
        ("HINDSIGHT_ZZZZ", "1", "; docs/operations.md lists them"),
        ("HINDSIGHT_MAX_QUEUE", "many", "max_queue 'many' (environment HINDSIGHT_MAX_QUEUE)"),
        ("HINDSIGHT_PORT", "tcp://10.0.0.1:8000", "enableServiceLinks"),
        ("HINDSIGHT_SERVICE_HOST", "10.0.0.1", "enableServiceLinks"),
        ("HINDSIGHT_PORT_8000_TCP_ADDR", "10.0.0.1", "enableServiceLinks"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(variable: str, value: str, words: str) -> None:
    assert words in refusal(environment={variable: value})


def test_variables_of_other_parts_are_no_settings() -> None:
    others = {"PATH": "a", **{name: "b" for name in OTHER_VARIABLES - {"HINDSIGHT_CONFIG"}}}
    assert read_configuration(environment=others).settings == read_configuration(environment={}).settings


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("max-qeue=1", "did you mean 'max_queue'?"),
        ("max_queue", "expected name=value"),
        ("max_queue=few", "max_queue 'few' (flag --set max_queue)"),
        ("cors_origin=*", "no wildcard"),
        ("cors_origin=https://a.example/path", "is not an origin"),
        ("trusted_proxies=*", "trusted_proxies"),
        ("trusted_proxies=proxy.local", "trusted_proxies"),
        ("tls_key=key.pem", "tls_key needs tls_certificate"),
        ("anonymous=true", "anonymous needs keys_file"),
        ("admin_port=8000", "must differ"),
    ],
)
def test_what_is_wrong_in_an_assignment_is_named(assignment: str, words: str) -> None:
    assert words in refusal(assignments=[assignment])


def test_a_secret_is_neither_shown_nor_repeated_in_a_complaint() -> None:
    assert is_secret("tls_key_password") and not is_secret("tls_key")
    found = read_configuration(environment={"HINDSIGHT_TLS_KEY_PASSWORD": "hunter2"})
    shown = configuration_json(found)
    assert "hunter2" not in shown + repr(found)
    assert json.loads(shown)["tls_key_password"] == {
        "value": "set, not shown",
        "source": "environment HINDSIGHT_TLS_KEY_PASSWORD",
    }
    assert "hunter2" not in refusal(assignments=["tls_key_pasword=hunter2"])
    assert "hunter2" not in refusal(assignments=["tls_key_password=hunter2", "port=x"])


def test_every_setting_is_explained_and_stands_in_a_group() -> None:
    assert set(GROUPS) <= set(Settings.model_fields)
    assert next(iter(Settings.model_fields)) in GROUPS
    assert [name for names in grouped_names().values() for name in names] == list(Settings.model_fields)
    unexplained = [name for name, field in Settings.model_fields.items() if not field.description]
    assert not unexplained
    assert issubclass(Settings, BaseSettings)


def test_the_documented_table_of_settings_is_that_of_the_code() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    assert page == with_settings(page), "run: python -m service.config_show docs/operations.md"
    assert "| `max_queue` | `256` |" in settings_markdown()
