"""Making room in a full outbox, a step at a time: what was never sent is packed closer, then merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from joulebook.errors import BadInput
from joulebook.outbox_file import Transaction, count_state, put_state, state_of
from joulebook.outbox_queue import CHUNK_ROWS, START, Chunk, Queue
from joulebook.packing import SMALL, deflate, inflate, text_of, unpack
from joulebook.rows import Body
from joulebook.thinning import STEPS_US, thin

MOST_PASSED: Final = 2000
"""Stretches in which nothing is to be packed closer that one step passes by, unread."""
_CURSOR: Final = "thinning"


def thin_step(queue: Queue, is_new: Callable[[int, Body], bool]) -> bool:
    """One step, oldest rows first. False when nothing is left to gain; the next one begins anew.

    A step looks at CHUNK_ROWS rows: it runs on the sampler's thread, and in its memory.
    is_new(opened, row): that row, and those after it, are not merged yet. Rows are packed closer through the
    whole queue, then merged within a minute, within five, within an hour. Raises sqlite3.OperationalError when
    the disk refuses.
    """
    level, *start = state_of(queue.db, _CURSOR) or (0, *START)
    after = (start[0], start[1])
    with Transaction(queue.db):
        for passed, window in enumerate(_windows(queue, after)):
            after = window[-1].end
            if level or _is_loose(window):
                with suppress(BadInput):  # damaged rows are left to be told by whoever drains them
                    _thin_window(queue, [queue.with_body(chunk) for chunk in window], level, is_new)
                break
            if passed >= MOST_PASSED:
                break
        else:
            level, after = level + 1, START
        if level > len(STEPS_US):
            put_state(queue.db, _CURSOR, None)
            return False
        put_state(queue.db, _CURSOR, [level, *after])
    return True


def _windows(queue: Queue, after: tuple[int, int]) -> Iterator[list[Chunk]]:
    """Consecutive chunks that may be rewritten together, their rows unread.

    Left alone: what was sent, and what a waiting reassignment names.
    """
    window: list[Chunk] = []
    for chunk in queue.chunks(after, body="x''"):
        free = chunk.wire_id is None and not queue.is_named(chunk)
        full = sum(c.count for c in window) + chunk.count > CHUNK_ROWS
        if window and (full or not free or chunk.opened != window[0].opened):
            yield window
            window = []
        if free:
            window.append(chunk)
    if window:
        yield window


def _is_loose(window: Sequence[Chunk]) -> bool:
    """True when packing its rows closer is worth it."""
    return len(window) > 2


def _thin_window(queue: Queue, window: list[Chunk], level: int, is_new: Callable[[int, Body], bool]) -> None:
    if level == 0:
        arrays = (inflate(chunk.body)[1:-1] for chunk in window)
        _put_instead(queue, window, "[" + ",".join(arrays) + "]", sum(chunk.count for chunk in window))
        return
    rows = [body for chunk in window for body in unpack(chunk.body)]
    old = next((i for i, row in enumerate(rows) if is_new(window[0].opened, row)), len(rows))
    kept = [*thin(rows[:old], STEPS_US[level - 1]), *rows[old:]]
    if len(kept) < len(rows):
        _put_instead(queue, window, text_of(kept), len(kept))
        count_state(queue.db, "merged", len(rows) - len(kept))


def _put_instead(queue: Queue, window: list[Chunk], text: str, count: int) -> None:
    """Rows in the window's stead, at the last of its places: rows that a late mark may name keep theirs."""
    for chunk in window:
        queue.delete(chunk)
    last = window[-1].last
    names = any(chunk.names for chunk in window)
    queue.put(replace(window[0], first=last - count + 1, last=last, names=names, body=deflate(text, SMALL)))
