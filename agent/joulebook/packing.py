"""Rows as the outbox keeps them: a JSON array of wire rows, deflated.

What ``to_wire`` and ``json`` would write, at half their cost: nested rows are handed to the encoder
one by one, with no copy in between.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from math import isfinite
from operator import attrgetter
from typing import Any

from joulebook.errors import BadInput
from joulebook.rows import Body, Measurement, Share, from_wire, kind_of

QUICK = 1
"""Level of compression while metering."""
SMALL = 6
"""Level of compression where space is short."""

FIRST_BYTES = 4096
"""What is unpacked to find a first row."""

MOST_HEADS = 4096
_heads: dict[tuple[object, ...], str] = {}
_ALONE = tuple(name for name in Measurement.__dataclass_fields__ if name != "shares")
_alone = attrgetter(*_ALONE)
_FIELDS: dict[type, tuple[tuple[str, ...], attrgetter[Any]]] = {}


def pack(bodies: Iterable[Body], level: int = QUICK) -> bytes:
    """Rows as bytes. Raises ValueError on a number that JSON has not, such as NaN."""
    return deflate(text_of(bodies), level)


def text_of(bodies: Iterable[Body]) -> str:
    """Rows as a JSON array. Raises ValueError on a number that JSON has not, such as NaN."""
    return "[" + ",".join([_text(body) for body in bodies]) + "]"


def unpack(packed: bytes) -> list[Body]:
    """The rows that ``pack`` was given. Raises BadInput on bytes that are not whole."""
    return [from_wire(wire) for wire in json.loads(inflate(packed))]


def first_wire(packed: bytes) -> dict[str, Any]:
    """The first row in its wire form, the rest left packed where that is possible. Raises BadInput on damage."""
    try:
        start = zlib.decompressobj().decompress(packed, FIRST_BYTES).decode(errors="ignore")
    except zlib.error:
        start = ""  # ``inflate`` says why
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


def _text(body: Body) -> str:
    if type(body) is not Measurement:
        return _ENCODER.encode({"row": kind_of(body), **_plain(body)})
    # Most of what is ever written, and most of it shares that differ in numbers alone.
    values = {"row": "measurement", **dict(zip(_ALONE, _alone(body), strict=True))}
    return f'{_ENCODER.encode(values)[:-1]},"shares":[{",".join([_share_text(share) for share in body.shares])}]}}'


def _share_text(share: Share) -> str:
    words = (share.kind, share.policy, share.run_id, share.phase, share.member, share.rank)
    head = _heads.get(words)
    if head is None:
        if len(_heads) >= MOST_HEADS:
            _heads.clear()
        names = ("kind", "policy", "run_id", "phase", "member", "rank")
        head = _heads[words] = _ENCODER.encode(dict(zip(names, words, strict=True)))[:-1]
    weights = share.weights
    cpu, sm, reserved = weights.cpu_seconds, weights.sm_seconds, weights.reserved_fraction
    if not isfinite(cpu + sm + reserved):
        raise ValueError(f"a weight of {share.run_id or share.kind} is no number")
    return (
        f'{head},"millijoules":{share.millijoules},"weights":{{"cpu_seconds":{cpu!r},"sm_seconds":{sm!r},'
        f'"reserved_fraction":{reserved!r}}}}}'
    )


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
