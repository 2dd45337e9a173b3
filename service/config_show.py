"""Settings for readers: `hindsight serve --show-config`, and the table in docs/operations.md.

    python -m service.config_show docs/operations.md

writes the table anew between that page's markers.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from service.config import Configuration
from service.settings import GROUPS, Settings

_BEGIN, _END = "<!-- settings: begin -->", "<!-- settings: end -->"


def grouped_names() -> dict[str, list[str]]:
    """Group title -> its settings, in the order of the class."""
    groups: dict[str, list[str]] = {}
    title = ""
    for name in Settings.model_fields:
        title = GROUPS.get(name, title)
        groups.setdefault(title, []).append(name)
    return groups


def configuration_table(configuration: Configuration) -> Table:
    """Every setting with its value and source."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("setting", "value", "source"):
        table.add_column(heading, overflow="fold")
    for title, names in grouped_names().items():
        table.add_row(Text(title, style="bold"))
        for name in names:
            value = _shown(getattr(configuration.settings, name))
            table.add_row(f"  {name}", Text(value), Text(configuration.sources[name]))
    return table


def configuration_json(configuration: Configuration) -> str:
    """The same as one JSON object: setting -> {"value", "source"}."""
    document = {
        name: {"value": _plain(getattr(configuration.settings, name)), "source": source}
        for name, source in configuration.sources.items()
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def settings_markdown() -> str:
    """The table of docs/operations.md, from the Settings class."""
    parts = []
    for title, names in grouped_names().items():
        rows = []
        for name in names:
            field = Settings.model_fields[name]
            default = _shown(field.get_default())
            meaning = " ".join((field.description or "").split())
            rows.append(f"| `{name}` | {f'`{default}`' if default else ''} | {meaning} |")
        parts.append("\n".join([f"**{title}**", "", "| setting | default | |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(parts)


def with_settings(page: str) -> str:
    """`page` with the table between its markers replaced. ValueError where a marker is missing."""
    head, begin, rest = page.partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"the page needs the lines {_BEGIN} and {_END}")
    return f"{head}{begin}\n\n{settings_markdown()}\n\n{end}{tail}"


def _plain(value: object) -> Any:
    if isinstance(value, SecretStr):
        return "set, not shown"
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    plain = _plain(value)
    if plain is None:
        return ""
    if isinstance(plain, bool):
        return str(plain).lower()
    return ", ".join(plain) if isinstance(plain, list) else str(plain)


if __name__ == "__main__":
    page_path = Path(sys.argv[1])
    page_path.write_text(with_settings(page_path.read_text()))
