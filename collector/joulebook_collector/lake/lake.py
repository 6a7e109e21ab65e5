"""The lake of a ledger: which version counts, and how another one comes to count.

A version is written in full before the ledger names it in one durable transaction, which also deletes the hot rows that
it holds and replaces the views. What a crash leaves behind is named by no transaction, and is cleared away later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec
from joulebook.errors import LedgerError

from joulebook_collector.lake.manifest import NOTHING, Manifest, Named, Part, decode, encode, hash_of, path_of, replaced
from joulebook_collector.lake.store import Store, open_store
from joulebook_collector.lake.views import SEEN, view_statements

if TYPE_CHECKING:
    from joulebook_collector.ledger import Ledger

ACTIONS: Final = ("seal", "compact", "retire")
"""Transactions that make another version count; their ``detail`` names it."""

LAST_POINTER: Final = (
    "select detail from log where action in (select unnest(?::varchar[])) order by txn desc limit 1",
    [list(ACTIONS)],
)
"""Statement and values that find the version which counts; ``read_pointer`` reads it."""

DEFAULT_PLACE: Final = "lake"
"""Beside the ledger's file."""

CURRENT: Final = "current.json"
"""For readers without the ledger: which version counts. It may lag behind the ledger by one, never ahead of it."""


class Pointer(msgspec.Struct, frozen=True):
    """What names a version: in the ledger's log, and in ``current.json``."""

    lake: str
    version: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A version that is written and counts from its commit on.

    deletes: statements that remove the hot rows which it holds, with their values.
    """

    action: str
    named: Named
    new: tuple[Part, ...] = ()
    deletes: tuple[tuple[str, tuple[object, ...]], ...] = ()


class Lake:
    """The sealed part of a ledger. ``current`` is the version that counts."""

    def __init__(self, ledger: Ledger, place: str | None = None) -> None:
        """place: a folder or URI for a lake that has no version yet, else where it is already.

        Raises LedgerError when the lake lies elsewhere, or its manifest is missing or altered.
        """
        self.ledger = ledger
        pointer = pointer_of(ledger)
        if pointer is not None and place is not None and place != pointer.lake:
            raise LedgerError(
                f"the lake is at {pointer.lake}, not at {place}", "leave the place out, or copy the lake there"
            )
        self.place = pointer.lake if pointer else place or DEFAULT_PLACE
        self.store = open_store(self.place, ledger.path.parent)
        self.current = _load(self.store, pointer) if pointer else NOTHING

    @property
    def manifest(self) -> Manifest:
        """The version that counts."""
        return self.current.manifest

    def next_version(self) -> int:
        """A number that no manifest has had, a crash's leftovers among them."""
        found = [int(path.split("/")[-1].removesuffix(".json")) for path in manifests_in(self.store)]
        return max([self.manifest.version, *found]) + 1

    def write(self, action: str, version: int, new: Sequence[Part], gone: Sequence[Part] = ()) -> Prepared:
        """Write the manifest with these parts in place of those; nothing counts yet."""
        manifest = Manifest(
            version,
            self.manifest.version,
            self.current.sha256,
            replaced(self.manifest.parts, gone, new),
        )
        text = encode(manifest)
        self.store.put(path_of(version), text)
        return Prepared(action, Named(manifest, hash_of(text)), tuple(new))

    def commit(self, prepared: Prepared) -> None:
        """Make it count: one durable transaction of the ledger. Raises LedgerError when another came between."""
        named = prepared.named
        if named.manifest.previous_sha256 != self.current.sha256:
            raise LedgerError(f"version {named.manifest.version} of the lake was made from another one", "do it again")
        pointer = Pointer(self.place, named.manifest.version, named.sha256)
        with self.ledger.transaction(prepared.action, msgspec.json.encode(pointer).decode()):
            for statement, values in prepared.deletes:
                self.ledger.execute(statement, values)
            for statement in view_statements(named.manifest, self.store.readable):
                self.ledger.execute(statement)
        self.current = named
        self.point()

    def point(self) -> None:
        """Bring ``current.json`` up to what the ledger says."""
        pointer = Pointer(self.place, self.manifest.version, self.current.sha256)
        text = current_text(pointer)
        if self.manifest.version and self.store.get(CURRENT) != text:
            self.store.put(CURRENT, text)

    def renew_views(self) -> None:
        """Make the views anew: the ledger may lie elsewhere than when they were made."""
        for statement in view_statements(self.manifest, self.store.readable):
            self.ledger.execute(statement)


def current_text(pointer: Pointer) -> bytes:
    """What ``current.json`` holds."""
    return msgspec.json.encode({"version": pointer.version, "sha256": pointer.sha256})


def pointer_of(ledger: Ledger) -> Pointer | None:
    """The version that the ledger names, None when nothing was ever sealed."""
    return read_pointer(ledger.query(*LAST_POINTER))


def read_pointer(rows: Sequence[tuple[Any, ...]]) -> Pointer | None:
    """The pointer in what ``LAST_POINTER`` found."""
    return msgspec.json.decode(rows[0][0], type=Pointer) if rows else None


def manifests_in(store: Store) -> list[str]:
    """Paths of the manifests, oldest first."""
    return [path for path in store.list("manifests") if path.endswith(".json")]


def attach(ledger: Ledger) -> None:
    """At open: the views of the ledger, with those of its lake where that lies now."""
    made = ledger.query("select 1 from duckdb_views() where view_name = ?", [SEEN])
    if not made or pointer_of(ledger) is not None:
        Lake(ledger).renew_views()


def with_deletes(prepared: Prepared, *deletes: tuple[str, tuple[object, ...]]) -> Prepared:
    """The same, removing hot rows at its commit."""
    return replace(prepared, deletes=deletes)


def _load(store: Store, pointer: Pointer) -> Named:
    path = path_of(pointer.version)
    text = store.get(path)
    if text is None:
        raise LedgerError(f"{path} of the lake {pointer.lake} is missing", "restore the lake from a copy")
    named = decode(text, path)
    if named.sha256 != pointer.sha256:
        raise LedgerError(
            f"{path} of the lake {pointer.lake} differs from what was written", "restore the lake from a copy"
        )
    return named
