"""A few top-level keys of a YAML file, read strictly: what YOLO's data.yaml needs, without a dependency.

Read are texts (plain, quoted, over several lines), lists of texts and mappings of texts to texts, in block
and in flow style; everything stays text (`yes` is not True), except that nothing, `~` and `null` are None.
Keys that were not asked for are skipped, whatever they hold. Anything else under a key that was asked for is
refused with its line: anchors, aliases, tags, block scalars, nesting, keys that come twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

Content = str | list[str] | dict[str, str] | None

_NOTHING = re.compile(r"[ \t]*(#[^\n]*)?(\n|\Z)")  # a blank line or a comment
_KEY = re.compile(r"""(?![-?](?:\s|$))([^\s'"\[\]{}&*!|>%@`#,](?:[^\n]*?[^\s:])??)[ \t]*:(?=[ \t\n]|\Z)""")
_PLAIN_END = re.compile(r"[ \t]+#[^\n]*|\n|\Z")
_SINGLE = re.compile(r"'((?:[^']|'')*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_FOLD = re.compile(r"[ \t]*\n[ \t\n]*")
_ESCAPE = re.compile(
    r"\\(\n[ \t]*|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)|([ \t]*\n[ \t\n]*)", re.DOTALL
)
_ESCAPES = {
    "0": "\0", "a": "\a", "b": "\b", "t": "\t", "\t": "\t", "n": "\n", "v": "\v", "f": "\f", "r": "\r",
    "e": "\x1b", " ": " ", '"': '"', "/": "/", "\\": "\\", "N": "\x85", "_": "\xa0", "L": "\u2028",
    "P": "\u2029",
}  # fmt: skip
_FLOW_PLAIN = re.compile(r"(?:[^,\[\]{}\n:#]|:(?![ \t\n,\[\]{}])|(?<![ \t\n,\[\]{}])#)+")
_FLOW_SPACE = re.compile(r"(?:[ \t\n]|(?<=[ \t\n])#[^\n]*)*")
_MOST_NESTED = 20
_REFUSED = {
    "&": "an anchor", "*": "an alias", "!": "a tag", "|": "a block of text", ">": "a block of text",
    "%": "a directive", "@": "a reserved sign", "`": "a reserved sign",
}  # fmt: skip


class YamlError(Exception):
    """What cannot be read; `line` is 1-based."""

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Value:
    """What stands under a key, and the key's line."""

    content: Content
    line: int


def read_keys(text: str, wanted: Collection[str]) -> dict[str, Value]:
    """Those of the `wanted` top-level keys that `text` has. Raises YamlError."""
    return _Reader(text.replace("\r\n", "\n").replace("\r", "\n")).keys(wanted)


class _Reader:
    """Methods take a position in the text and give one back, behind what they read."""

    def __init__(self, text: str) -> None:
        self._text = text

    def keys(self, wanted: Collection[str]) -> dict[str, Value]:
        found: dict[str, Value] = {}
        at = self._start()
        while (at := self._skip_nothing(at)) < len(self._text):
            if self._text.startswith(("---", "..."), at):
                raise self._error("expected one document with keys at its left edge", at)
            name, behind = self._key(at)
            if name not in wanted:
                at = self._skip_value(behind)
                continue
            if name in found:
                raise self._error(f"the key {name!r} comes twice (first on line {found[name].line})", at)
            content, end = self._value(behind, 0)
            found[name] = Value(content, self._line(at))
            at = end
        return found

    def _start(self) -> int:
        """Behind directives and the mark of the document's start."""
        at = self._skip_nothing(0)
        while self._text.startswith("%", at):
            at = self._skip_nothing(self._line_end(at))
        if match := re.compile(r"---[ \t]*(?:#[^\n]*)?(?:\n|\Z)").match(self._text, at):
            return match.end()
        return at

    def _key(self, at: int) -> tuple[str, int]:
        """The key that begins here, and the position behind its colon."""
        if self._text[at] in "'\"":
            name, behind = self._quoted(at)
            colon = re.compile(r"[ \t]*:(?=[ \t\n]|\Z)").match(self._text, behind)
            if colon is None:
                raise self._error("expected a key, and a colon behind it", at)
            return name, colon.end()
        match = _KEY.match(self._text, at)
        if match is None:
            raise self._error("expected a key, and a colon behind it", at)
        return match[1], match.end()

    def _value(self, at: int, indent: int) -> tuple[Content, int]:
        """What stands behind the colon of a key that is indented by `indent`."""
        at = self._skip_blanks(at)
        if _NOTHING.match(self._text, at):
            return self._block(self._skip_nothing(at), indent)
        if self._text[at] in "[{":
            content, behind = self._flow(at, 0)
            return self._texts(content, at), self._end_of_value(behind)
        quoted = self._text[at] in "'\""
        scalar, behind = self._scalar(at, indent)
        return (scalar if quoted or scalar not in ("~", "null", "Null", "NULL") else None), behind

    def _block(self, at: int, indent: int) -> tuple[Content, int]:
        """What the lines below a key hold, if they belong to it."""
        own = self._indent(at)
        here = at + own
        if at >= len(self._text) or own < indent or self._text.startswith(("---", "..."), at):
            return None, at
        if re.compile(r"-(?=[ \t\n]|\Z)").match(self._text, here):
            return self._list(at, own)
        if own <= indent:
            return None, at
        if self._text[here] not in "[{'\"" and _KEY.match(self._text, here):
            return self._mapping(at, own)
        return self._value(here, indent)

    def _list(self, at: int, indent: int) -> tuple[Content, int]:
        items: list[str] = []
        while at < len(self._text) and self._indent(at) == indent:
            dash = re.compile(r"-(?=[ \t\n]|\Z)").match(self._text, at + indent)
            if dash is None:
                break
            here = self._skip_blanks(dash.end())
            if _NOTHING.match(self._text, here):
                raise self._error("an item of a list is empty or on another line", here)
            if self._text[here] in "[{" or re.compile(r"-[ \t\n]").match(self._text, here):
                raise self._error("lists in lists are not read", here)
            item, behind = self._scalar(here, indent)
            items.append(item)
            at = self._skip_nothing(behind)
        self._check_left(at, indent)
        return items, at

    def _mapping(self, at: int, indent: int) -> tuple[Content, int]:
        found: dict[str, str] = {}
        while at < len(self._text) and self._indent(at) == indent:
            name, behind = self._key(at + indent)
            here = self._skip_blanks(behind)
            if _NOTHING.match(self._text, here) or self._text[here] in "[{":
                raise self._error(f"{name}: expected a text behind the colon", at)
            if name in found:
                raise self._error(f"the key {name!r} comes twice", at)
            found[name], behind = self._scalar(here, indent)
            at = self._skip_nothing(behind)
        self._check_left(at, indent)
        return found, at

    def _check_left(self, at: int, indent: int) -> None:
        """Behind a block a line stands left of it."""
        if at < len(self._text) and self._indent(at) > indent:
            raise self._error("the line is indented further than what it belongs to", at)

    def _scalar(self, at: int, indent: int) -> tuple[str, int]:
        """A text, and the position of the line behind it."""
        if self._text[at] in "'\"":
            content, behind = self._quoted(at)
            return content, self._end_of_value(behind)
        self._refuse_sign(at)
        parts: list[str] = []
        while True:
            end = _PLAIN_END.search(self._text, at)
            assert end is not None
            part = self._text[at : end.start()].strip(" \t")
            if re.search(r":(?:[ \t]|$)", part):
                raise self._error("a colon inside a text: put it in quotes", at)
            parts.append(part)
            commented = "#" in end[0]
            at = self._line_end(end.start())
            following = self._skip_nothing(at)
            if following >= len(self._text) or self._indent(following) <= indent:
                return " ".join(parts), following
            if commented or following != at:
                raise self._error("the line is indented further than what it belongs to", following)
            at = following + self._indent(following)

    def _quoted(self, at: int) -> tuple[str, int]:
        single = self._text[at] == "'"
        match = (_SINGLE if single else _DOUBLE).match(self._text, at)
        if match is None:
            raise self._error("a quote is opened and not closed", at)
        if single:
            return _FOLD.sub(lambda fold: _folded(fold[0]), match[1]).replace("''", "'"), match.end()

        def plain(escape: re.Match[str]) -> str:
            if escape[2] is not None:
                return _folded(escape[2])
            code = escape[1]
            if code[0] == "\n":
                return ""
            if len(code) > 1:
                number = int(code[1:], 16)
                if number > 0x10FFFF:
                    raise self._error(f"\\{code} is no character", at)
                return chr(number)
            if code not in _ESCAPES:
                raise self._error(f"\\{code} means nothing in quotes", at)
            return _ESCAPES[code]

        return _ESCAPE.sub(plain, match[1]), match.end()

    def _flow(self, at: int, depth: int) -> tuple[object, int]:
        """[...], {...} or a text inside such."""
        if depth > _MOST_NESTED:
            raise self._error("nested too deeply", at)
        sign = self._text[at : at + 1]
        if sign in ("'", '"'):
            return self._quoted(at)
        if sign not in ("[", "{") or not sign:
            self._refuse_sign(at)
            return self._flow_plain(at)
        closing, opened = ("]" if sign == "[" else "}"), at
        items: list[object] = []
        pairs: dict[str, object] = {}
        at = self._flow_space(at + 1)
        while not self._text.startswith(closing, at):
            item, at = self._flow(at, depth + 1)
            at = self._flow_space(at)
            if self._text.startswith(":", at) and sign == "{":
                if not isinstance(item, str) or item in pairs:
                    raise self._error(f"expected keys that are texts and come once, got {item!r}", at)
                pairs[item], at = self._flow(self._flow_space(at + 1), depth + 1)
                at = self._flow_space(at)
            elif sign == "{":
                raise self._error(f"{item}: expected a colon and a text", at)
            items.append(item)
            if self._text.startswith(",", at):
                at = self._flow_space(at + 1)
            elif not self._text.startswith(closing, at):
                raise self._error(
                    f"expected a comma or {closing}, for the {sign} of line {self._line(opened)}", at
                )
        return (items if sign == "[" else pairs), at + 1

    def _flow_plain(self, at: int) -> tuple[str, int]:
        parts: list[str] = []
        while match := _FLOW_PLAIN.match(self._text, at):
            parts.append(match[0].strip(" \t"))
            at = self._flow_space(match.end())
        if not parts:
            raise self._error("expected a text", at)
        return " ".join(parts), at

    def _texts(self, content: object, at: int) -> Content:
        """A flow value without nesting."""
        if isinstance(content, dict) and all(isinstance(item, str) for item in content.values()):
            return dict(content)
        if isinstance(content, list) and all(isinstance(item, str) for item in content):
            return list(content)
        raise self._error("lists and mappings inside one another are not read", at)

    def _skip_value(self, at: int) -> int:
        """Behind the value of a key that nobody asked for."""
        at = self._skip_blanks(at)
        if self._text[at : at + 1] in ("[", "{"):
            _, at = self._flow(at, 0)
        elif self._text[at : at + 1] in ("'", '"'):
            _, at = self._quoted(at)
        at = self._line_end(at)
        belongs = re.compile(r"[ \t][^\n]*(?:\n|\Z)|-(?!--)[^\n]*(?:\n|\Z)|\n|#[^\n]*(?:\n|\Z)")
        while at < len(self._text) and (match := belongs.match(self._text, at)):
            at = match.end()
        return at

    def _end_of_value(self, at: int) -> int:
        match = _NOTHING.match(self._text, at)
        if match is None:
            raise self._error("expected nothing more on this line", at)
        return self._skip_nothing(match.end())

    def _refuse_sign(self, at: int) -> None:
        sign = self._text[at : at + 1]
        if sign in _REFUSED:
            raise self._error(f"{_REFUSED[sign]} ({sign}) is not read: write the text itself", at)

    def _skip_nothing(self, at: int) -> int:
        """Over blank lines and comments, to the start of a line that holds something."""
        while at < len(self._text) and (match := _NOTHING.match(self._text, at)):
            at = match.end()
        return at

    def _skip_blanks(self, at: int) -> int:
        while self._text[at : at + 1] in (" ", "\t"):
            at += 1
        return at

    def _flow_space(self, at: int) -> int:
        match = _FLOW_SPACE.match(self._text, at)
        return match.end() if match else at

    def _indent(self, at: int) -> int:
        """Spaces at the start of the line at `at`."""
        count = 0
        while self._text[at + count : at + count + 1] == " ":
            count += 1
        if self._text[at + count : at + count + 1] == "\t":
            raise self._error("a tab in the indentation, which YAML does not have", at)
        return count

    def _line_end(self, at: int) -> int:
        """The start of the next line."""
        end = self._text.find("\n", at)
        return len(self._text) if end < 0 else end + 1

    def _line(self, at: int) -> int:
        return self._text.count("\n", 0, at) + 1

    def _error(self, message: str, at: int) -> YamlError:
        return YamlError(message, self._line(min(at, len(self._text))))


def _folded(space: str) -> str:
    """A line's end inside quotes is a space; blank lines are line ends."""
    return " " if space.count("\n") == 1 else "\n" * (space.count("\n") - 1)
