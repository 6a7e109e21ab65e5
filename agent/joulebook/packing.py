"""Rows as the outbox keeps them: a JSON array of wire rows, deflated.

What ``to_wire`` and ``json`` would write, at half their cost: nested rows are handed to the encoder
one by one, with no copy in between.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

from joulebook.errors import BadInput
from joulebook.rows import Body, Measurement, from_wire, kind_of

QUICK = 1
"""Level of compression while metering."""
SMALL = 6
"""Level of compression where space is short."""

FIRST_BYTES = 4096
"""What is unpacked to find a first row."""

_FIELDS: dict[type, tuple[tuple[str, ...], attrgetter[Any]]] = {}


def pack(bodies: Iterable[Body], level: int = QUICK) -> bytes:
    """Rows as bytes. Raises ValueError on a number that JSON has not, such as NaN."""
    return deflate(text_of(bodies), level)


def text_of(bodies: Iterable[Body]) -> str:
    """Rows as a JSON array. Raises ValueError on a number that JSON has not, such as NaN."""
    return _ENCODER.encode([_named(body) for body in bodies])


def unpack(packed: bytes) -> list[Body]:
    """The rows that ``pack`` was given. Raises BadInput on bytes that are not whole."""
    return [from_wire(wire) for wire in json.loads(inflate(packed))]


def first_wire(packed: bytes) -> dict[str, Any]:
    """The first row in its wire form, the rest left packed where that is possible."""
    start = zlib.decompressobj().decompress(packed, FIRST_BYTES).decode(errors="ignore")
    try:
        found: dict[str, Any] = json.JSONDecoder().raw_decode(start, 1)[0]
    except ValueError:  # longer than that
        found = json.loads(inflate(packed))[0]
    return found


def deflate(text: str, level: int = QUICK) -> bytes:
    """Text as bytes with a checksum."""
    return zlib.compress(text.encode(), level)


def inflate(packed: bytes) -> str:
    """The JSON array that was packed. Raises BadInput on bytes that are not whole."""
    try:
        return zlib.decompress(packed).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise BadInput(
            f"packed rows are damaged: {error}", "restore the outbox from a backup, or move it away"
        ) from error


def _named(body: Body) -> dict[str, Any]:
    return {"row": "measurement" if type(body) is Measurement else kind_of(body), **_plain(body)}


def _plain(value: object) -> dict[str, Any]:
    """One level of a row: what the encoder asks for when it meets what it does not know."""
    kind = type(value)
    known = _FIELDS.get(kind)
    if known is None:
        names = getattr(kind, "__dataclass_fields__", None)
        if names is None:
            if isinstance(value, Mapping):
                return dict(value)
            raise TypeError(f"{kind.__name__} is no part of a row")
        known = _FIELDS[kind] = (tuple(names), attrgetter(*names))
    return dict(zip(known[0], known[1](value), strict=True))


_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False, default=_plain, check_circular=False)
