"""Making room in a full outbox, a step at a time: what was never sent is packed closer, then merged."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from joulebook.errors import BadInput
from joulebook.outbox_file import Transaction, count_state, put_state, state_of
from joulebook.outbox_queue import CHUNK_ROWS, START, Chunk, Queue
from joulebook.packing import SMALL, deflate, inflate, unpack
from joulebook.rows import Body, to_wire
from joulebook.thinning import STEPS_US, thin

WINDOW_ROWS: Final = 1000
"""Rows that one step looks at: it runs on the sampler's thread, and in its memory."""
_CURSOR: Final = "thinning"


def thin_step(queue: Queue, is_new: Callable[[int, Body], bool]) -> bool:
    """One step, oldest rows first. False when nothing is left to gain; the next one begins anew.

    is_new(opened, row): that row, and those after it, are not merged yet. Rows are packed closer through the
    whole queue, then merged within a minute, within five, within an hour. Raises sqlite3.OperationalError when
    the disk refuses.
    """
    level, *after = state_of(queue.db, _CURSOR) or (0, *START)
    with Transaction(queue.db):
        while True:
            window, seen = _window(queue, (after[0], after[1]))
            if seen is None:
                level, after = level + 1, [*START]
                break
            after = [*seen]
            if window and (level or _is_loose(window)):
                with suppress(BadInput):  # damaged rows are left to be told by whoever drains them
                    _thin_window(queue, [queue.with_body(chunk) for chunk in window], level, is_new)
                break
        if level > len(STEPS_US):
            put_state(queue.db, _CURSOR, None)
            return False
        put_state(queue.db, _CURSOR, [level, *after])
    return True


def _window(queue: Queue, after: tuple[int, int]) -> tuple[list[Chunk], tuple[int, int] | None]:
    """Consecutive chunks that may be rewritten, their rows unread, and how far was looked; None at the end.

    Left alone: what was sent, and what a waiting reassignment names.
    """
    window: list[Chunk] = []
    seen: tuple[int, int] | None = None
    for chunk in queue.chunks(after, body="x''"):
        full = sum(c.count for c in window) + chunk.count > WINDOW_ROWS
        if window and (full or chunk.opened != window[0].opened):
            break
        seen = chunk.end
        if chunk.wire_id is None and not queue.is_named(chunk):
            window.append(chunk)
        elif window:
            break
    return window, seen


def _is_loose(window: Sequence[Chunk]) -> bool:
    """True when the rows would take far fewer chunks."""
    return len(window) > 2 * -(-sum(chunk.count for chunk in window) // CHUNK_ROWS)


def _thin_window(queue: Queue, window: list[Chunk], level: int, is_new: Callable[[int, Body], bool]) -> None:
    if level == 0:
        _repack(queue, window, [row for chunk in window for row in json.loads(inflate(chunk.body))])
        return
    rows = [body for chunk in window for body in unpack(chunk.body)]
    old = next((i for i, row in enumerate(rows) if is_new(window[0].opened, row)), len(rows))
    kept = [*thin(rows[:old], STEPS_US[level - 1]), *rows[old:]]
    if len(kept) < len(rows):
        _repack(queue, window, [to_wire(row) for row in kept])
        count_state(queue.db, "merged", len(rows) - len(kept))


def _repack(queue: Queue, window: list[Chunk], rows: list[Any]) -> None:
    """Wire rows in the window's stead, at the last of its places: rows that a late mark may name keep theirs."""
    for chunk in window:
        queue.delete(chunk)
    place = window[-1].last - len(rows) + 1
    for i in range(0, len(rows), CHUNK_ROWS):
        part = rows[i : i + CHUNK_ROWS]
        names = any(row["row"] == "reassignment" for row in part)
        body = deflate(json.dumps(part, separators=(",", ":")), SMALL)
        first = place + i
        queue.put(replace(window[0], first=first, last=first + len(part) - 1, names=names, body=body))
