"""The API reference at /docs: the OpenAPI document as one plain HTML page, without scripts."""

import json
from html import escape
from typing import Any

from service.errors import INVALID_REQUEST, PROBLEMS
from service.refusals import REFUSALS


def reference_page(document: dict[str, Any]) -> str:
    """HTML of an OpenAPI 3.1 document and of the table of problems."""
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    index = "".join(
        f'<li><a href="#{_anchor(method, path)}"><code>{method.upper()} {escape(path)}</code></a> '
        f"{escape(operation.get('summary', ''))}</li>"
        for method, path, operation in operations
    )
    sections = "".join(_operation(method, path, operation) for method, path, operation in operations)
    schemas = "".join(_schema(name, schema) for name, schema in document["components"]["schemas"].items())
    title = escape(document["info"]["title"])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}: API</title><link rel="stylesheet" href="docs.css"></head><body><main>'
        f"<h1>{title}: API</h1><p>{escape(document['info']['description'])}</p>"
        '<p><a href="./">The page</a> · <a href="openapi.json">OpenAPI document</a></p>'
        f"<nav><ul>{index}</ul></nav>{sections}<h2>Schemas</h2>{schemas}<h2>Problems</h2>{_problems()}</main></body></html>"
    )


def _anchor(method: str, path: str) -> str:
    return escape(method + path.replace("/", "-").replace("{", "").replace("}", ""))


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f'<section id="{_anchor(method, path)}"><h2><code>{method.upper()} {escape(path)}</code></h2>',
        f"<p>{escape(operation.get('summary', ''))}</p>",
    ]
    if operation.get("parameters"):
        rows = "".join(
            f"<tr><th><code>{escape(item['name'])}</code></th><td>{escape(_type(item['schema']))}</td>"
            f"<td>{escape(item.get('description') or item['schema'].get('description', ''))}</td></tr>"
            for item in operation["parameters"]
        )
        parts.append(f"<h3>Parameters</h3><table>{rows}</table>")
    body = operation.get("requestBody")
    if body:
        rows = "".join(
            f"<tr><th><code>{escape(kind)}</code></th><td>{escape(_type(content['schema']))}</td></tr>"
            for kind, content in body["content"].items()
        )
        parts.append(f"<h3>Body</h3><p>{escape(body.get('description', ''))}</p><table>{rows}</table>")
    rows = "".join(
        f"<tr><th>{escape(status)}</th><td>{escape(answer['description'])}</td><td>{_response_types(answer)}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    parts.append(f"<h3>Answers</h3><table>{rows}</table></section>")
    return "".join(parts)


def _response_types(answer: dict[str, Any]) -> str:
    lines = [
        f"<code>{escape(kind)}</code> {escape(_type(content.get('schema', {})))}"
        for kind, content in answer.get("content", {}).items()
    ]
    return "<br>".join(lines)


def _schema(name: str, schema: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><th><code>{escape(field)}</code></th><td>{escape(_type(content))}</td>"
        f"<td>{escape(content.get('description', ''))}</td><td>{_example(content)}</td></tr>"
        for field, content in schema.get("properties", {}).items()
    )
    heading = f'<h3 id="{escape(name)}">{escape(name)}</h3>'
    return f"{heading}<p>{escape(schema.get('description', ''))}</p><table>{rows}</table>"


def _example(content: dict[str, Any]) -> str:
    examples = content.get("examples")
    return f"<code>{escape(json.dumps(examples[0]))}</code>" if examples else ""


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words: `number or null`, `list of Detection`, ..."""
    if "$ref" in schema:
        return str(schema["$ref"].rpartition("/")[2])
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(_type(option) for option in schema[choice])
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items') or {})}".removesuffix(" of ")
    if schema.get("type") == "object" and schema.get("properties"):
        return "object with " + ", ".join(schema["properties"])
    return str(schema.get("type", ""))


def _problems() -> str:
    listed = sorted(
        {*PROBLEMS.values(), INVALID_REQUEST, *REFUSALS}, key=lambda problem: (problem.status, problem.slug)
    )
    rows = "".join(
        f'<tr id="{problem.slug}"><th>{problem.status}</th><td><code>{problem.slug}</code></td>'
        f"<td>{escape(problem.title)}</td></tr>"
        for problem in listed
    )
    return f"<p>Errors are <code>application/problem+json</code> (RFC 9457).</p><table>{rows}</table>"
