"""The wire's other half (docs/reference/wire.md): bytes of a request to a batch, each row judged by itself."""

from __future__ import annotations

import json
from itertools import count
from typing import Annotated, Any, Final, cast

import msgspec
from joulebook.errors import BadInput
from joulebook.rows import MAX_TEXT, Batch, Body, Mark, Measurement, Reassignment, Row, Run

from joulebook_collector.limits import MOST_ROWS, objection
from joulebook_collector.plain import LARGEST_SEQ, Name, plain_batch
from joulebook_collector.unread import Unread, canonical

VERSION: Final = 1


class BatchHead(msgspec.Struct):
    """A batch with its rows as they came."""

    version: int
    agent_id: Name
    incarnation: Name
    first_seq: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_SEQ)]
    rows: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1)]


class BatchRequest(msgspec.Struct):
    """A batch as the wire has it (docs/reference/wire.md): contiguous rows of one incarnation of one agent.

    first_seq: seq of the first row; those after it are numbered on.  rows: as docs/reference/rows.md has them, each
    with its kind under ``row``; one that breaks a rule goes to quarantine, and the others are taken.
    """

    version: int
    agent_id: Name
    incarnation: Name
    first_seq: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_SEQ)]
    rows: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1, max_length=MOST_ROWS)]


class Malformed(Exception):
    """The request is no batch. error: the word that the answer carries; str: for people."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


class TooManyRows(Exception):
    """More rows than one batch may have."""


class _Kind(msgspec.Struct):
    row: str = ""


_HEAD: Final = msgspec.json.Decoder(BatchHead)
_KIND: Final = msgspec.json.Decoder(_Kind)
_BODIES: Final[dict[str, msgspec.json.Decoder[Any]]] = {
    "measurement": msgspec.json.Decoder(Measurement),
    "run": msgspec.json.Decoder(Run),
    "mark": msgspec.json.Decoder(Mark),
    "reassignment": msgspec.json.Decoder(Reassignment),
}


def read_batch(text: bytes) -> Batch:
    """The batch of a request's body; a row that cannot be taken stands in it as Unread, with the reason.

    Fields that are not known are ignored. Raises Malformed when it is no batch of this version, TooManyRows.
    """
    plain = plain_batch(text)
    if plain is None:
        return read_each(text)
    return Batch(plain.agent_id, plain.incarnation, tuple(map(Row, count(plain.first_seq), cast(Any, plain.rows))))


def read_each(text: bytes) -> Batch:
    """As ``read_batch``, each row judged by itself whatever it is."""
    head = _head(text)
    if head.version != VERSION:
        raise Malformed("version", f"version {head.version} of the wire is not spoken here, {VERSION} is")
    if len(head.rows) > MOST_ROWS:
        raise TooManyRows
    rows = tuple(Row(seq, read_row(bytes(raw))) for seq, raw in enumerate(head.rows, start=head.first_seq))
    return Batch(head.agent_id, head.incarnation, rows)


def _head(text: bytes) -> BatchHead:
    try:
        return _HEAD.decode(text)
    except msgspec.ValidationError as error:
        raise Malformed("malformed", f"the body is no batch: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _lenient_head(text)


def _lenient_head(text: bytes) -> BatchHead:
    """Where a row holds what JSON has no word for (NaN, half a surrogate), only that row is to blame."""
    try:
        values = json.loads(text)
        rows = values.pop("rows")
        head = msgspec.convert({**values, "rows": [b"" for _ in rows]}, _Shape)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise Malformed("malformed", f"the body is no batch in JSON: {_short(error)}") from None
    raw = [msgspec.Raw(canonical(row).encode()) for row in rows]
    return BatchHead(head.version, head.agent_id, head.incarnation, head.first_seq, raw)


class _Shape(msgspec.Struct):
    version: int
    agent_id: Name
    incarnation: Name
    first_seq: Annotated[int, msgspec.Meta(ge=1, le=LARGEST_SEQ)]
    rows: Annotated[list[bytes], msgspec.Meta(min_length=1)]


def read_row(raw: bytes) -> Body:
    """The row of its JSON text; Unread where it cannot be taken."""
    kind = ""
    try:
        kind = _KIND.decode(raw).row
        decoder = _BODIES.get(kind)
        if decoder is None:
            return _unread(kind, raw, f"a row of unknown kind {kind[:40]!r}")
        body: Body = decoder.decode(raw)
        reason = objection(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        reason = _numbers(raw) or f"the row cannot be read: {_short(error)}"
    except BadInput as error:
        reason = error.cause
    except (OverflowError, RecursionError) as error:
        reason = f"the row cannot be read: {_short(error)}"
    return _unread(kind, raw, reason) if reason else body


def _numbers(raw: bytes) -> str:
    return "a number is not finite" if any(word in raw for word in (b"NaN", b"Infinity")) else ""


def _unread(kind: str, raw: bytes, reason: str) -> Body:
    # A batch is of rows; the one that could not become one goes with them so that the ledger keeps it in its place.
    return cast(Body, Unread(kind[:MAX_TEXT], canonical(json.loads(raw)), reason[:1000]))


def _short(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]
