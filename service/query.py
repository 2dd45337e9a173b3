"""Query strings: what no route accepts."""

from collections import Counter

from starlette.requests import Request

from hindsight.errors import OptionError

KNOWN: dict[str, set[str]] = {}
"""The parameters of each path; filled by create_app, read for "did you mean"."""

_REPEATABLE = {"classes"}


async def refuse_repeats(request: Request) -> None:
    """A route dependency. Of two values, one would be dropped in silence. Raises OptionError."""
    counts = Counter(name for name, _ in request.query_params.multi_items() if name not in _REPEATABLE)
    for name, count in counts.items():
        if count > 1:
            raise OptionError(f"{name[:64]} is given {count} times in the query; give it once")
