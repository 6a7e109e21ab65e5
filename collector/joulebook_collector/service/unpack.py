"""Bodies that come packed, unpacked within a bound: a bomb costs no more memory than an honest body."""

from __future__ import annotations

import io
import zlib
from typing import Final

import zstandard

ENCODINGS: Final = ("gzip", "zstd", "identity")
_GZIP: Final = 31
"""zlib's wbits for a gzip frame."""


class TooLarge(Exception):
    """The body unpacks to more than the bound."""


class Garbled(Exception):
    """The body is not what its Content-Encoding says, or is cut off."""


def unpack(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """The body as it was before packing, at most ``most_bytes`` long.

    encoding: one of ENCODINGS. Raises TooLarge, Garbled.
    """
    if encoding == "identity":
        return body
    unpacked = _gzip(body, most_bytes) if encoding == "gzip" else _zstd(body, most_bytes)
    if len(unpacked) > most_bytes:
        raise TooLarge
    return unpacked


def _gzip(body: bytes, most_bytes: int) -> bytes:
    unpacker = zlib.decompressobj(_GZIP)
    try:
        found = unpacker.decompress(body, most_bytes + 1)
    except zlib.error as error:
        raise Garbled(f"the body is no gzip: {error}") from None
    if len(found) <= most_bytes and (not unpacker.eof or unpacker.unused_data):
        raise Garbled("the gzip body is cut off, or something follows it")
    return found


def _zstd(body: bytes, most_bytes: int) -> bytes:
    unpacker = zstandard.ZstdDecompressor(max_window_size=8 << 20)
    try:
        with unpacker.stream_reader(io.BytesIO(body)) as reader:
            found = reader.read(most_bytes + 1)
        whole = unpacker.decompressobj()
        if len(found) <= most_bytes:
            whole.decompress(body)
            if not whole.eof or whole.unused_data:
                raise Garbled("the zstd body is cut off, or something follows it")
    except zstandard.ZstdError as error:
        raise Garbled(f"the body is no zstd: {error}") from None
    return found
