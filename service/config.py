"""Where settings come from: flags > environment > file > default, each value with its source.

A name nobody knows and a value that is wrong are errors of one line that say where they stand.
"""

import difflib
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hindsight.errors import OptionError
from service.settings import ENVIRONMENT_PREFIX, Settings

CONFIG_VARIABLE = "HINDSIGHT_CONFIG"

# Read by other parts of the package, its tests or what runs beside the server: no settings of its own.
OTHER_VARIABLES = frozenset(
    {
        CONFIG_VARIABLE,
        "HINDSIGHT_API_KEY",
        "HINDSIGHT_CACHE",
        "HINDSIGHT_DATA",
        "HINDSIGHT_FUZZ_CASES",
        "HINDSIGHT_FUZZ_SEED",
        "HINDSIGHT_MODELS",
    }
)

_DEFAULT = "default"


@dataclass(frozen=True)
class Configuration:
    """The settings of one start, and for each where its value came from."""

    settings: Settings
    sources: dict[str, str]
    """Setting -> `default`, `file NAME:LINE`, `environment HINDSIGHT_X` or `flag --x`."""


@dataclass(frozen=True)
class _Given:
    value: Any
    source: str


def read_configuration(
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Configuration:
    """Put together one server's settings.

    flags: setting -> value, None where the flag was not given. assignments: `name=value` of --set, which
    wins over the setting's own flag. file: of --config, else $HINDSIGHT_CONFIG. Raises OptionError.
    """
    environment = os.environ if environment is None else environment
    if file is None and environment.get(CONFIG_VARIABLE):
        file = Path(environment[CONFIG_VARIABLE])
    given: dict[str, _Given] = {}
    if file is not None:
        given.update(_of_file(file))
    given.update(_of_environment(environment))
    for name, value in (flags or {}).items():
        if value is not None:
            given[name] = _Given(value, f"flag --{name.replace('_', '-')}")
    given.update(_of_assignments(assignments))
    try:
        settings = Settings(**{name: each.value for name, each in given.items()})
    except ValidationError as error:
        raise OptionError(_complaint(error, given)) from None
    sources = {name: _DEFAULT for name in Settings.model_fields}
    return Configuration(settings, sources | {name: each.source for name, each in given.items()})


def _of_file(path: Path) -> dict[str, _Given]:
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except OSError as error:
        raise OptionError(f"cannot read the settings file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise OptionError(f"the settings file {path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise OptionError(f"the settings file {path} is not TOML: {error}") from None
    given = {}
    for name, value in document.items():
        where = f"{path}{_line_of(name, text)}"
        if name not in Settings.model_fields:
            raise OptionError(f"{where}: {_unknown(name)}")
        if isinstance(value, dict):
            raise OptionError(f"{where}: {name} is a table; settings are plain `name = value` lines")
        given[name] = _Given(tuple(value) if isinstance(value, list) else value, f"file {where}")
    return given


def _line_of(name: str, text: str) -> str:
    """`:LINE` where the key `name` stands; empty if it is written in a way that a line does not show."""
    key = re.compile(rf"""\s*\[*\s*["']?{re.escape(name)}["']?\s*[=.\]]""")
    numbers = (number for number, line in enumerate(text.splitlines(), start=1) if key.match(line))
    number = next(numbers, None)
    return "" if number is None else f":{number}"


def _of_environment(environment: Mapping[str, str]) -> dict[str, _Given]:
    given = {}
    for variable, value in environment.items():
        if not variable.upper().startswith(ENVIRONMENT_PREFIX) or variable in OTHER_VARIABLES or not value:
            continue
        name = variable[len(ENVIRONMENT_PREFIX) :].lower()
        if value.startswith("tcp://") or re.fullmatch(r"(service_(host|port)\w*)|(port_\d+_\w+)", name):
            raise OptionError(
                f"environment {variable}={value[:64]!r} looks like one that Kubernetes sets for a Service "
                "named hindsight: set enableServiceLinks: false in the pod, or name the Service otherwise"
            )
        if name not in Settings.model_fields:
            raise OptionError(f"environment: {_unknown(name, ENVIRONMENT_PREFIX)}")
        given[name] = _Given(value, f"environment {variable}")
    return given


def _of_assignments(assignments: Sequence[str]) -> dict[str, _Given]:
    given = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise OptionError(f"--set {name[:64]!r}: expected name=value")
        if name not in Settings.model_fields:
            raise OptionError(f"--set: {_unknown(name)}")
        given[name] = _Given(value.strip(), f"flag --set {name}")
    return given


def _unknown(name: str, prefix: str = "") -> str:
    close = difflib.get_close_matches(name, Settings.model_fields, n=1, cutoff=0.5)
    nearest = prefix + close[0].upper() if close and prefix else "".join(close)
    hint = f" (did you mean {nearest!r}?)" if close else "; docs/operations.md lists them"
    if prefix:
        return f"there is no variable {prefix + name.upper()[:64]!r}{hint}"
    return f"there is no setting {name[:64]!r}{hint}"


def _complaint(error: ValidationError, given: Mapping[str, _Given]) -> str:
    """One line for the first thing that is wrong: the setting, its value and where that came from."""
    first = error.errors()[0]
    reason = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return reason
    name = str(first["loc"][0])
    source = f" ({given[name].source})" if name in given else ""
    shown = "" if is_secret(name) else f" {first['input']!r}"
    return f"{name}{shown}{source}: {reason}"


def is_secret(name: str) -> bool:
    """Whether a setting's value must not be shown."""
    return "SecretStr" in str(Settings.model_fields[name].annotation)
