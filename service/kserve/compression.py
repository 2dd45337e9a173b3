"""Compressed bodies, which this protocol's clients may send and ask for. What comes out is bounded while it
comes out.
"""

import gzip
import zlib

from service.errors import BadBody, BodyTooLarge

ENCODINGS = ("identity", "gzip", "deflate")
_SMALLEST = 1024  # bytes; less is not worth it
_LEVEL = 1  # a response waits for it


def decompress(body: bytes, encoding: str, limit: int) -> bytes:
    """The body without its Content-Encoding, one of ENCODINGS. Raises BadBody; BodyTooLarge past `limit`
    bytes.
    """
    if encoding == "identity":
        return body
    # The HTTP name `deflate` means the zlib form.
    stream = zlib.decompressobj(zlib.MAX_WBITS | 16 if encoding == "gzip" else zlib.MAX_WBITS)
    try:
        plain = stream.decompress(body, limit + 1)
    except zlib.error as error:
        raise BadBody(f"the body is not {encoding} ({error})") from None
    if len(plain) > limit:
        raise BodyTooLarge(f"the body has more than {limit} bytes once it is decompressed")
    if not stream.eof or stream.unused_data:
        raise BadBody(f"the body's {encoding} stream does not end where the body ends")
    return plain


def accepted_encoding(accept: str, size: int) -> str:
    """How to compress an answer of `size` bytes for a client that sent this Accept-Encoding."""
    if size < _SMALLEST:
        return "identity"
    offered = {}
    for part in accept.lower().split(","):
        name, _, quality = part.partition(";")
        offered[name.strip()] = quality.replace(" ", "")
    for name in ("gzip", "deflate"):
        if name in offered and offered[name] not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            return name
    return "identity"


def compress(content: bytes, encoding: str) -> bytes:
    """`content` in one of ENCODINGS."""
    if encoding == "gzip":
        return gzip.compress(content, _LEVEL, mtime=0)
    return zlib.compress(content, _LEVEL) if encoding == "deflate" else content
