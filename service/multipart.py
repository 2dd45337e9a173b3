"""Multipart bodies, taken apart into the fields that a route wants."""

from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BadBody, TooManyImages
from service.query import KNOWN


def parse_multipart(content_type: str, body: bytes, wanted: dict[str, int]) -> dict[str, list[bytes]]:
    """The contents of the fields in `wanted` (name -> most parts of it), in order. Raises BadBody,
    TooManyImages.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise BadBody("the multipart content type has no boundary")
    collector = _Collector(wanted)
    try:
        parser = MultipartParser(boundary, collector.callbacks())  # type: ignore[arg-type]  # a TypedDict of optional keys
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise BadBody(f"the multipart body is malformed ({error})") from None
    if not collector.complete:
        raise BadBody("the multipart body ends before its closing boundary")
    return collector.fields


class _Collector:
    """Callbacks of the multipart parser. Parts are kept as they come; unknown fields are an error, not
    ignored.
    """

    def __init__(self, wanted: dict[str, int]) -> None:
        self.fields: dict[str, list[bytes]] = {name: [] for name in wanted}
        self.complete = False
        self._wanted = wanted
        self._header, self._value = bytearray(), bytearray()
        self._name = ""
        self._chunks: list[bytes] = []

    def callbacks(self) -> dict[str, Callable[..., None]]:
        return {
            "on_part_begin": self._begin,
            "on_part_data": lambda data, start, end: self._chunks.append(data[start:end]),
            "on_part_end": self._end,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._name, self._chunks = "", []

    def _header_end(self) -> None:
        if bytes(self._header).lower() == b"content-disposition":
            name = parse_options_header(bytes(self._value))[1].get(b"name", b"")
            self._name = name.decode("utf-8", "replace")
        self._header.clear()
        self._value.clear()

    def _headers_finished(self) -> None:
        if self._name not in self._wanted:
            is_option = any(self._name in names for names in KNOWN.values())
            raise BadBody(
                f"unexpected multipart field {self._name[:64]!r}; expected {' and '.join(self._wanted)}"
                + (f"; options belong into the query string: ?{self._name}=..." if is_option else "")
            )
        most = self._wanted[self._name]
        if len(self.fields[self._name]) >= most:
            raise TooManyImages(
                f"more than {most} multipart fields {self._name!r}; at most {most} are accepted"
            )

    def _end(self) -> None:
        self.fields[self._name].append(self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks))

    def _finish(self) -> None:
        self.complete = True
