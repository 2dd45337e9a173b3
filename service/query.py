"""Query strings of the routes that every image passes.

FastAPI would read a model of query parameters by itself; it resolves each field's alias anew for each
request, which took a third of the event loop's time there. So the routes depend on `query_of`, and their
description is made `with_query`.
"""

from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from hindsight.errors import OptionError

KNOWN: dict[str, set[str]] = {}
"""The parameters of each path; filled by create_app, read for "did you mean"."""

_REPEATABLE = {"classes"}

Model = TypeVar("Model", bound=BaseModel)


def query_of(kind: type[Model]) -> Callable[[Request], Coroutine[Any, Any, Model]]:
    """A route dependency: the query string as `kind`. Raises OptionError where a parameter is repeated (of
    two values one would be dropped in silence); RequestValidationError as FastAPI does.
    """

    async def read(request: Request) -> Model:
        pairs = request.query_params.multi_items()
        given: dict[str, Any] = dict(pairs)
        for name, count in Counter(name for name, _ in pairs).items():
            if name in _REPEATABLE:
                given[name] = [value for other, value in pairs if other == name]
            elif count > 1:
                raise OptionError(f"{name[:64]} is given {count} times in the query; give it once")
        try:
            return kind.model_validate(given)
        except ValidationError as error:
            found = [{**item, "loc": ("query", *item["loc"])} for item in error.errors()]
            raise RequestValidationError(found) from None

    return read


def with_query(kind: type[BaseModel], description: dict[str, Any]) -> dict[str, Any]:
    """`description`, an operation of OpenAPI or a part of it, with the fields of `kind` as parameters."""
    fields: dict[str, dict[str, Any]] = kind.model_json_schema()["properties"]
    own = [_parameter(name, schema) for name, schema in fields.items()]
    return {**description, "parameters": own + description.get("parameters", [])}


def _parameter(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    described = {"description": schema["description"]} if "description" in schema else {}
    told = {key: value for key, value in schema.items() if (key, value) != ("default", None)}
    return {"name": name, "in": "query", "required": False, "schema": told, **described}
