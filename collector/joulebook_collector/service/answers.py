"""Answers as JSON, and the errors that every endpoint gives alike."""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec
from starlette.responses import Response

_ENCODER: Final = msgspec.json.Encoder()


class ErrorAnswer(msgspec.Struct):
    """Why a request was not done. error: a word for programs.  message: for people, without any secret."""

    error: str
    message: str


class Problem(Exception):
    """Ends a request with an error. retry_after_seconds: None when coming again changes nothing."""

    def __init__(self, status: int, error: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.error = error
        self.retry_after_seconds = retry_after_seconds


def answer(values: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The values as JSON."""
    return Response(_ENCODER.encode(values), status, headers, media_type="application/json")


def answer_problem(problem: Problem) -> Response:
    """The error as JSON, with what HTTP wants beside it."""
    headers: dict[str, str] = {}
    if problem.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(problem.retry_after_seconds)))
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return answer(ErrorAnswer(problem.error, str(problem)), problem.status, headers)
