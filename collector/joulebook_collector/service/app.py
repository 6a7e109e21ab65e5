"""The application: routes from the table of endpoints, each behind the one guard."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Final

from joulebook.errors import JoulebookError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from joulebook_collector.service.access import EVERYTHING, Refused, Token
from joulebook_collector.service.answers import Problem, answer_problem
from joulebook_collector.service.context import Service, TooManyQueries
from joulebook_collector.service.endpoints import ENDPOINTS, Endpoint

SCOPES: Final[dict[str, Callable[[Token], bool]]] = {
    "write": lambda token: bool(token.write),
    "read": lambda token: bool(token.read) or token.admin,
    "admin": lambda token: token.admin,
}


def application(service: Service) -> Starlette:
    """All endpoints of one collector."""
    routes = [
        Route(endpoint.path, _guarded(service, endpoint), methods=[endpoint.method], include_in_schema=False)
        for endpoint in ENDPOINTS
    ]

    def unknown(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: ("unknown", "no such path"), 405: ("method", "not with this method")}
        return answer_problem(Problem(error.status_code, *words.get(error.status_code, ("http", error.detail))))

    return Starlette(routes=routes, exception_handlers={HTTPException: unknown})


def _guarded(service: Service, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    counted = {}

    async def handle(request: Request) -> Response:
        try:
            token = _admitted(service, endpoint, request)
            response = await endpoint.handler(service, token, request)
        except Problem as problem:
            response = answer_problem(problem)
        except TooManyQueries:
            response = answer_problem(Problem(429, "busy", "too many queries wait", 2.0))
        except JoulebookError as error:  # of the book: what it says is for the operator, not for whoever asks
            print(f"joulebook collector: {endpoint.path}: {error.cause}", file=sys.stderr, flush=True)
            response = answer_problem(Problem(500, "ledger", "the ledger cannot answer: see the collector's log"))
        status = response.status_code
        if status not in counted:
            counted[status] = service.metrics.requests.labels(endpoint.path, str(status))
        counted[status].inc()
        return response

    return handle


def _admitted(service: Service, endpoint: Endpoint, request: Request) -> Token:
    """Who asks. Raises Problem: 401 for all tokens that do not do alike, 403 for one that does, but not here."""
    if not endpoint.scope or service.token_free:
        return EVERYTHING
    act = f"{endpoint.method} {endpoint.path}"
    try:
        token = service.access.check(request.headers.get("authorization", ""))
    except Refused as refused:
        service.refusals.note(refused.token_id or _from(request), act, refused.reason)
        raise Problem(401, "token", "a valid token is needed") from None
    if not SCOPES[endpoint.scope](token):
        service.refusals.note(token.token_id, act, f"not of the scope {endpoint.scope}")
        raise Problem(403, "token", f"the token is not of the scope {endpoint.scope}")
    return token


def _from(request: Request) -> str:
    return request.client.host if request.client else ""
