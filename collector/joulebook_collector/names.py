"""Text of rows that repeats (who sent them, which device, whose share) as numbers: a row is a fifth as large so.

A name may have several numbers, after a restart with more of them than are kept in memory: views see no difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from joulebook_collector import schema

if TYPE_CHECKING:
    from joulebook_collector.remote import Connection

MOST_KEPT: Final = 200_000
"""Names of one table that are kept in memory, a few hundred bytes each; more are forgotten, all at once."""

Name = tuple[Any, ...]


class Names:
    """The numbers of one table of schema.NAMES. Not for use by several threads."""

    def __init__(self, db: Connection, table: str) -> None:
        self.table = table
        own = ", ".join(column for column, _ in schema.NAMES[table])
        rows = db.execute(
            f"select {table}, {own} from {table} order by {table} desc limit {MOST_KEPT // 2}"  # noqa: S608
        ).fetchall()
        self._numbers: dict[Name, int] = {tuple(name): number for number, *name in rows}
        self._last = rows[0][0] if rows else 0
        self._new: list[tuple[Any, ...]] = []

    def number(self, name: Name) -> int:
        """The name's number; a new one is written with ``take_new``."""
        found = self._numbers.get(name)
        return self._add(name) if found is None else found

    def take_new(self) -> list[tuple[Any, ...]]:
        """Rows (number, name...) that are not written yet."""
        new, self._new = self._new, []
        return new

    def _add(self, name: Name) -> int:
        if len(self._numbers) >= MOST_KEPT:
            self._numbers.clear()
        self._last += 1
        self._numbers[name] = self._last
        self._new.append((self._last, *name))
        return self._last
