"""A lake's files follow a copy of its ledger: sealed rows are in no other place."""

from __future__ import annotations

from pathlib import Path

import duckdb
from joulebook.errors import LedgerError

from joulebook_collector.lake.lake import CURRENT, LAST_POINTER, current_text, read_pointer
from joulebook_collector.lake.manifest import decode, hash_of, path_of
from joulebook_collector.lake.store import open_store


def bring_files(copy: Path, source: Path, to: Path) -> int:
    """Bring what the ledger file ``copy`` has sealed from the lake beside ``source`` to beside ``to``; files brought.

    source, to: folders of ledgers. A lake that lies at a URI or an absolute path stays there, and serves both.
    Files never change under their name: one that is there already is not brought again.
    Raises LedgerError where one is missing or altered.
    """
    with duckdb.connect(str(copy), read_only=True) as db:
        sql, values = LAST_POINTER
        pointer = read_pointer(db.execute(sql, values).fetchall())
    if pointer is None or "://" in pointer.lake or Path(pointer.lake).is_absolute() or source.samefile(to):
        return 0
    old, new = open_store(pointer.lake, source), open_store(pointer.lake, to)
    manifest_path, brought = path_of(pointer.version), 0
    text = old.get(manifest_path)
    if text is None or hash_of(text) != pointer.sha256:
        raise LedgerError(f"{manifest_path} of {source / pointer.lake} is missing or altered", _REMEDY)
    for part in decode(text, manifest_path).manifest.parts:
        if new.get(part.path) is not None:
            continue
        content = old.get(part.path)
        if content is None or hash_of(content) != part.sha256:
            raise LedgerError(f"{part.path} of {source / pointer.lake} is missing or altered", _REMEDY)
        new.put(part.path, content)
        brought += 1
    new.put(manifest_path, text)
    new.put(CURRENT, current_text(pointer))
    return brought


_REMEDY = "restore the lake's folder from a copy"
