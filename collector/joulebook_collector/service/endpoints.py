"""Every path in one table: who may ask, what is asked and answered. Routing, access and OpenAPI are made from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from joulebook_collector.service.access import Token
from joulebook_collector.service.answers import Problem, answer
from joulebook_collector.service.context import Service
from joulebook_collector.service.ingest import Acknowledgement, ForkedAnswer, take_batch
from joulebook_collector.service.metrics import CONTENT_TYPE
from joulebook_collector.service.quarantine import (
    RefusedPage,
    RefusedRowAnswer,
    ReplayAnswer,
    refused_page,
    refused_row,
    replay,
)
from joulebook_collector.service.reads import (
    LARGEST_PAGE,
    PAGE,
    EnergyAnswer,
    Quality,
    RunAnswer,
    RunPage,
    energy_answer,
    quality,
    run_answer,
    run_page,
)
from joulebook_collector.service.wire import BatchRequest
from joulebook_collector.service.writer import Unwritten

BIGINT_MAX: Final = 2**63 - 1
Handler = Callable[[Service, Token, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number or text in the path or query. kind: int or str.  most: largest number, or most characters."""

    name: str
    kind: type
    about: str
    default: Any = None
    least: int = 0
    most: int = BIGINT_MAX


@dataclass(frozen=True, slots=True)
class Endpoint:
    """scope: write, read, admin, or "" where no token is needed.  answers: status -> type of the body."""

    method: str
    path: str
    scope: str
    about: str
    handler: Handler
    answers: Mapping[int, Any]
    request: Any = None
    parameters: tuple[Parameter, ...] = ()
    media: str = "application/json"
    problems: tuple[int, ...] = field(default=())


class Alive(msgspec.Struct):
    """status: ok, or in words what is not."""

    status: str


class AuditLine(msgspec.Struct):
    """One act. outcome: done or refused."""

    n: int
    at_us: int
    actor: str
    act: str
    subject: str
    outcome: str
    detail: str


class AuditPage(msgspec.Struct):
    """Acts, oldest first; the last line's n is ``after`` of the next page."""

    lines: list[AuditLine]


_LIMIT: Final = Parameter("limit", int, "how many at most", PAGE, least=1, most=LARGEST_PAGE)
_AS_OF: Final = Parameter("as_of", int, "what was known then, UTC microseconds; default: now")
_RUN_ID: Final = Parameter("run_id", str, "id of a run", most=512)


def value_of(request: Request, parameter: Parameter) -> Any:
    """The parameter as asked, its default when it is not. Raises Problem when it cannot be."""
    text = request.path_params.get(parameter.name, request.query_params.get(parameter.name))
    if text is None:
        return parameter.default
    if parameter.kind is str:
        if len(text) <= parameter.most and "\0" not in text and text.isascii() | text.isprintable():
            return text
    elif len(text) <= 20 and text.isascii() and text.isdecimal() and parameter.least <= int(text) <= parameter.most:
        return int(text)
    raise Problem(400, "parameter", f"{parameter.name}: {parameter.about}, {_range(parameter)}")


def _range(parameter: Parameter) -> str:
    if parameter.kind is str:
        return f"{parameter.most} characters at most"
    return f"a whole number from {parameter.least} to {parameter.most}"


def _reading(query: Callable[..., Any], *parameters: Parameter, tenant: bool = True) -> Handler:
    """A handler that runs the query with the token and the parameters' values."""

    async def handle(service: Service, token: Token, request: Request) -> Response:
        values = [value_of(request, parameter) for parameter in parameters]
        return answer(await service.read(query(token, *values) if tenant else query(*values)))

    return handle


async def _healthy(service: Service, token: Token, request: Request) -> Response:
    return answer(Alive("ok"))


async def _ready(service: Service, token: Token, request: Request) -> Response:
    if service.broken:
        return answer(Alive("the ledger cannot be written"), 503)
    return answer(Alive("ok"))


async def _metrics(service: Service, token: Token, request: Request) -> Response:
    metrics, writer = service.metrics, service.writer
    metrics.queue_rows.set(writer.waiting_rows)
    metrics.queue_limit_rows.set(writer.queue_rows)
    metrics.write_failures.set(writer.failures)
    metrics.refusals.set(service.refusals.total)
    return Response(metrics.text(), media_type=CONTENT_TYPE)


async def _audit(service: Service, token: Token, request: Request) -> Response:
    after, limit = value_of(request, _AFTER_N), value_of(request, _LIMIT)
    return answer(AuditPage([AuditLine(**line) for line in service.access.audited(after, limit)]))


async def _replay(service: Service, token: Token, request: Request) -> Response:
    txn, seq = (value_of(request, parameter) for parameter in _ROW)
    try:
        taken = await service.writer.act(replay(txn, seq))
    except Problem as problem:
        service.access.note(token.token_id, "quarantine replay", f"{txn}/{seq}", "refused", str(problem))
        raise
    except Unwritten:
        raise Problem(503, "unwritten", "the ledger cannot be written now: see the collector's log", 5.0) from None
    service.access.note(token.token_id, "quarantine replay", f"{txn}/{seq}", "done", f"transaction {taken.txn}")
    return answer(taken)


async def _openapi(service: Service, token: Token, request: Request) -> Response:
    from joulebook_collector.service.openapi import document

    return answer(document(ENDPOINTS))


_PAGE_OF_RUNS: Final = (
    _LIMIT,
    Parameter("after", str, "'next' of the page before", "", most=4096),
    Parameter("study", str, "only runs of this study", "", most=512),
    _AS_OF,
)
_AFTER_N: Final = Parameter("after", int, "n of the last line that is known", 0)
_PAGE_OF_REFUSED: Final = (
    _LIMIT,
    Parameter("after_txn", int, "'next_txn' of the page before", 0),
    Parameter("after_seq", int, "'next_seq' of the page before", 0),
    _AS_OF,
)
_ROW: Final = (Parameter("txn", int, "transaction of a refused row"), Parameter("seq", int, "seq of a refused row"))

ENDPOINTS: Final = (
    Endpoint(
        "POST", "/v1/batches", "write", "Bring a batch of an agent's rows.", take_batch,
        {200: Acknowledgement, 409: ForkedAnswer}, BatchRequest, problems=(400, 408, 411, 413, 415, 429, 503),
    ),
    Endpoint(
        "GET", "/v1/runs", "read", "Runs of your projects, newest first.", _reading(run_page, *_PAGE_OF_RUNS),
        {200: RunPage}, parameters=_PAGE_OF_RUNS, problems=(400, 429),
    ),
    Endpoint(
        "GET", "/v1/runs/{run_id}", "read", "One run.", _reading(run_answer, _RUN_ID, _AS_OF),
        {200: RunAnswer}, parameters=(_RUN_ID, _AS_OF), problems=(400, 404, 429),
    ),
    Endpoint(
        "GET", "/v1/runs/{run_id}/energy", "read", "What a run drew and emitted, by slot, component and phase.",
        _reading(energy_answer, _RUN_ID, _AS_OF),
        {200: EnergyAnswer}, parameters=(_RUN_ID, _AS_OF), problems=(400, 404, 429, 500),
    ),
    Endpoint(
        "GET", "/v1/quality", "admin", "How whole the book is.", _reading(quality, _AS_OF, tenant=False),
        {200: Quality}, parameters=(_AS_OF,), problems=(400, 429),
    ),
    Endpoint(
        "GET", "/v1/quarantine", "admin", "Refused rows.", _reading(refused_page, *_PAGE_OF_REFUSED, tenant=False),
        {200: RefusedPage}, parameters=_PAGE_OF_REFUSED, problems=(400, 429),
    ),
    Endpoint(
        "GET", "/v1/quarantine/{txn}/{seq}", "admin", "One refused row.", _reading(refused_row, *_ROW, tenant=False),
        {200: RefusedRowAnswer}, parameters=_ROW, problems=(400, 404, 429),
    ),
    Endpoint(
        "POST", "/v1/quarantine/{txn}/{seq}/replay", "admin", "Judge a refused row anew, and take it.", _replay,
        {200: ReplayAnswer}, parameters=_ROW, problems=(400, 404, 409, 503),
    ),
    Endpoint(
        "GET", "/v1/audit", "admin", "Acts of administration, and refusals.", _audit,
        {200: AuditPage}, parameters=(_AFTER_N, _LIMIT), problems=(400,),
    ),
    Endpoint("GET", "/v1/openapi.json", "", "This document.", _openapi, {200: dict[str, Any]}),
    Endpoint("GET", "/healthz", "", "Whether the process answers.", _healthy, {200: Alive}),
    Endpoint("GET", "/readyz", "", "Whether rows are taken.", _ready, {200: Alive, 503: Alive}),
    Endpoint("GET", "/metrics", "", "The collector's own metrics.", _metrics, {200: str}, media="text/plain"),
)  # fmt: skip
