"""`hindsight keys`: make, list and revoke API keys. Works on the file alone; a running server notices."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from hindsight.commands.console import complain, fail, output
from service.keys import ROLES, KeysError, create_key, read_keys, revoke_key

keys = typer.Typer(
    help="Make, list and revoke the API keys of a server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

_File = Annotated[
    Path,
    typer.Option("--file", envvar="HINDSIGHT_KEYS_FILE", help="The keys file.", show_default=False),
]
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="Who will use it: letters, digits, dots, dashes.")],
    file: _File,
    role: Annotated[
        str,
        typer.Option(help="user: images. metrics: /metrics. admin: loading models, and all the rest."),
    ] = "user",
    rate: Annotated[float | None, typer.Option(help="Images a second, in the long run.")] = None,
    burst: Annotated[int | None, typer.Option(help="Images at once. (default: those of one second)")] = None,
    expires: Annotated[
        str | None, typer.Option(help="12h, 90d, 4w, or a date such as 2027-01-31 (UTC).")
    ] = None,
) -> None:
    """Make a key and print it: once, for only its hash is stored."""
    if role not in ROLES:
        fail(f"--role {role!r}: expected one of {', '.join(ROLES)}")
    if burst is not None and rate is None:
        fail("--burst needs --rate")
    until = None if expires is None else _expiry(expires)
    try:
        secret = create_key(file, name, role, expires=until, rate=rate, burst=burst)
    except KeysError as error:
        fail(str(error))
    typer.echo(secret)
    complain(f"the {role} key {name!r} is in {file}; what is printed here cannot be shown again")


@keys.command("list")
def list_keys(file: _File) -> None:
    """Show the keys of a file: names, roles, limits, never the keys."""
    from rich.table import Table

    now = datetime.now(UTC)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "role", "images/s", "burst", "created", "expires"):
        table.add_column(heading)
    try:
        found = read_keys(file)
    except KeysError as error:
        fail(str(error))
    for key in found:
        expiry = "never" if key.expires is None else key.expires.isoformat(timespec="minutes")
        table.add_row(
            key.name,
            key.role,
            "any" if key.rate is None else f"{key.rate:g}",
            "any" if key.burst is None else str(key.burst),
            key.created.date().isoformat(),
            f"{expiry} (expired)" if key.has_expired(now) else expiry,
        )
    output().print(table)


@keys.command()
def revoke(
    name: Annotated[str, typer.Argument(help="The key's name.")],
    file: _File,
) -> None:
    """Take a key out of the file. A running server refuses it within seconds."""
    try:
        revoke_key(file, name)
    except KeysError as error:
        fail(str(error))
    complain(f"the key {name!r} is no longer in {file}")


def _expiry(text: str) -> datetime:
    match = re.fullmatch(r"(\d{1,5})([hdw])", text)
    now = datetime.now(UTC).replace(microsecond=0)
    if match:
        return now + timedelta(**{_UNITS[match[2]]: int(match[1])})
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--expires {text!r}: expected 12h, 90d, 4w, or a date such as 2027-01-31")
    time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    if time <= now:
        fail(f"--expires {text!r} has passed")
    return time
