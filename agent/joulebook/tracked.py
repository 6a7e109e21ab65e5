"""A function under a run at every call. What a call only prepares, a coroutine or a generator, is tracked running."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

GENERATOR: Final = 0x20
COROUTINE: Final = 0x80
ASYNC_GENERATOR: Final = 0x200
"""Flags of a code object (inspect.CO_GENERATOR, CO_COROUTINE, CO_ASYNC_GENERATOR), without the price of ``inspect``."""


def tracked(
    function: Callable[..., Any], new_track: Callable[[], AbstractContextManager[object]]
) -> Callable[..., Any]:
    """The function, each of its calls in a track of its own."""
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)

    if flags & COROUTINE:

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with new_track():
                return await function(*args, **kwargs)

        return coroutine

    if flags & ASYNC_GENERATOR:

        @functools.wraps(function)
        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            with new_track():
                async for item in function(*args, **kwargs):
                    yield item

        return asynchronous

    if flags & GENERATOR:

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Any:
            with new_track():
                return (yield from function(*args, **kwargs))

        return generator

    @functools.wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with new_track():
            return function(*args, **kwargs)

    return plain
