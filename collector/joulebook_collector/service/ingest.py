"""POST /v1/batches: a batch is read, judged, queued, and acknowledged once it is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic
from typing import Final

import msgspec
from joulebook.errors import BadInput
from joulebook.rows import Batch, Reassignment
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from joulebook_collector.ledger import Forked, Ledger, Receipt
from joulebook_collector.limits import MOST_BODIES_BYTES, MOST_BODY_BYTES, MOST_ROWS
from joulebook_collector.service.access import Token
from joulebook_collector.service.answers import Problem, answer
from joulebook_collector.service.context import Service
from joulebook_collector.service.unpack import ENCODINGS, Garbled, TooLarge, unpack
from joulebook_collector.service.wire import Malformed, TooManyRows, read_batch
from joulebook_collector.service.writer import Full, Unwritten

READ_SECONDS: Final = 30.0
"""For the whole body of a request to come."""


class RefusedRow(msgspec.Struct):
    """A row that went to quarantine."""

    seq: int
    reason: str


class Acknowledgement(msgspec.Struct):
    """Every row of the batch up to ``acknowledged`` is durable."""

    acknowledged: int
    refused: list[RefusedRow]


class ForkedAnswer(msgspec.Struct):
    """The collector holds other rows under that place; ``seq`` is the first that differs."""

    error: str
    seq: int
    message: str


async def take_batch(service: Service, token: Token, request: Request) -> Response:
    """Take a batch of an agent's rows."""
    began = monotonic()
    text = await _body(service, request)
    try:
        batch = read_batch(text)
    except Malformed as error:
        raise Problem(400, error.error, str(error)) from None
    except TooManyRows:
        raise Problem(413, "too large", f"more than {MOST_ROWS} rows: send fewer at once") from None
    size_bytes = len(text)
    del text
    await _check_machines(service, token, batch)
    try:
        outcome = await service.writer.submit(batch, size_bytes)
    except Full as full:
        raise Problem(429, "busy", "the queue is full", full.retry_after_seconds) from None
    except Unwritten:
        raise Problem(503, "unwritten", "the ledger cannot be written now: see the collector's log", 5.0) from None
    if isinstance(outcome, Forked):
        service.metrics.forked.inc()
        return answer(ForkedAnswer("forked", outcome.seq, "other rows are held under that place"), 409)
    if isinstance(outcome, BadInput):
        raise Problem(400, "malformed", outcome.cause)
    service.metrics.acknowledge_seconds.observe(monotonic() - began)
    _count(service, outcome)
    return answer(Acknowledgement(batch.last_seq, [RefusedRow(seq, reason) for seq, reason in outcome.refused]))


def _count(service: Service, receipt: Receipt) -> None:
    rows = (("accepted", receipt.accepted), ("duplicate", receipt.duplicates), ("quarantined", receipt.quarantined))
    for what, count in rows:
        if count:
            service.metrics.rows.labels(what).inc(count)


async def _body(service: Service, request: Request) -> bytes:
    """The unpacked body. What may be read at one moment, by all requests together, is bounded before it is read."""
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ENCODINGS:
        raise Problem(415, "encoding", f"send {', '.join(ENCODINGS)}")
    length = request.headers.get("content-length", "")
    if not (length.isascii() and length.isdecimal() and len(length) <= 20):
        raise Problem(411, "length", "send Content-Length")
    size = int(length)
    if size > MOST_BODY_BYTES:
        raise Problem(413, "too large", f"more than {MOST_BODY_BYTES} bytes: send fewer rows at once")
    if service.reading_bytes + size > MOST_BODIES_BYTES:
        raise Problem(429, "busy", "too many requests are being read", 2.0)
    service.reading_bytes += size
    try:
        async with asyncio.timeout(READ_SECONDS):
            body = await request.body()
    except TimeoutError:
        raise Problem(408, "slow", f"the body did not come within {READ_SECONDS:g} s") from None
    except ClientDisconnect:
        raise Problem(400, "malformed", "the connection was closed within the body") from None
    finally:
        service.reading_bytes -= size
    service.metrics.body_bytes.inc(len(body))
    try:
        return unpack(body, encoding, MOST_BODY_BYTES)
    except TooLarge:
        raise Problem(413, "too large", f"unpacks to more than {MOST_BODY_BYTES} bytes") from None
    except Garbled as error:
        raise Problem(400, "malformed", str(error)) from None


async def _check_machines(service: Service, token: Token, batch: Batch) -> None:
    """Raises Problem when a row is of a machine that the token may not write.

    The whole batch then: quarantine would acknowledge rows that only the wrong token brought here.
    """
    if "*" in token.write:
        return
    named = {m for row in batch.rows if isinstance(m := getattr(row.body, "machine_id", None), str)}
    moves = [row.body for row in batch.rows if isinstance(row.body, Reassignment)]
    if moves:  # they name a row, and that one its machine
        named |= await service.read(lambda ledger: _machines_of(ledger, batch.agent_id, moves))
    if not all(map(token.may_write, named)):
        raise Problem(403, "token", "rows of a machine that the token may not write")


def _machines_of(ledger: Ledger, agent_id: str, moves: Sequence[Reassignment]) -> set[str]:
    rows = ledger.query(
        "select distinct machine_id from measurement where agent_id = $agent"
        " and incarnation in (select unnest($incarnations::varchar[])) and seq in (select unnest($seqs::bigint[]))",
        {
            "agent": agent_id,
            "incarnations": sorted({move.incarnation for move in moves}),
            "seqs": sorted({move.seq for move in moves if move.seq < 2**63}),
        },
    )
    return {machine for (machine,) in rows}
