"""Who may do what: tokens, and the log of what was done with them, in one SQLite file beside the ledger.

Apart from the ledger, so that a copy of the book carries no way in, and so that a token can be revoked while a
collector has the book: it sees a change of this file before the next request.

A token's secret is 256 random bits, shown once. Only its BLAKE2b digest is kept: a slow password hash protects what
people choose and others guess; nobody guesses 256 bits, and a slow hash at every request is a way to be flooded.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Self

from joulebook.clock import utc_us
from joulebook.errors import BadInput, JoulebookError

MARK: Final = "jb"
"""Begins every token: scanners for secrets that leaked can find it."""
VERSION: Final = 1
_TABLES: Final = """
create table token (
    token_id text primary key, name text not null, digest blob not null, write text not null, read text not null,
    admin integer not null, created_at_us integer not null, expires_at_us integer, revoked_at_us integer,
    used_at_us integer
) strict;
create table audit (
    n integer primary key autoincrement, at_us integer not null, actor text not null, act text not null,
    subject text not null, outcome text not null, detail text not null
) strict;
create trigger audit_stays before update on audit begin select raise(abort, 'the audit log is only appended to'); end;
create trigger audit_keeps before delete on audit begin select raise(abort, 'the audit log is only appended to'); end;
"""


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token; its secret is not. Instants in UTC microseconds, None for never.

    write: globs of machines whose rows it may bring.  read: globs of projects whose runs it may see.
    admin: may see and do everything but bring rows.
    """

    token_id: str
    name: str
    write: tuple[str, ...]
    read: tuple[str, ...]
    admin: bool
    created_at_us: int
    expires_at_us: int | None = None
    revoked_at_us: int | None = None
    used_at_us: int | None = None

    def may_write(self, machine_id: str) -> bool:
        """Whether it may bring rows of that machine."""
        return any(fnmatchcase(machine_id, pattern) for pattern in self.write)

    def may_read(self, project: str) -> bool:
        """Whether it may see runs of that project; runs without one ("") are seen with all projects only."""
        return self.admin or any(fnmatchcase(project, pattern) for pattern in self.read)

    def state(self, at_us: int) -> str:
        """active, expired or revoked."""
        if self.revoked_at_us is not None and self.revoked_at_us <= at_us:
            return "revoked"
        return "expired" if self.expires_at_us is not None and self.expires_at_us <= at_us else "active"


EVERYTHING: Final = Token("", "no tokens", ("*",), ("*",), True, 0)
"""What everybody may where the collector asks for no tokens."""


class Refused(Exception):
    """No token, or one that does not do. reason: for the audit log alone; the answer tells all alike."""

    def __init__(self, reason: str, token_id: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.token_id = token_id


class Access:
    """The file of tokens. For one thread; ``close`` it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._used: dict[str, int] = {}
        try:
            path.touch(mode=0o600)
            with ExitStack() as stack:
                self._db = sqlite3.connect(path, isolation_level=None, timeout=10.0)
                stack.callback(self._db.close)
                self._db.execute("pragma journal_mode = wal")
                self._bring_up_to_date()
                stack.pop_all()
        except (OSError, sqlite3.Error) as error:
            raise JoulebookError(
                f"cannot open {path}: {error}", "set JOULEBOOK_HOME to a directory that you may write, or restore it"
            ) from error
        self._seen: int | None = None
        self._tokens: dict[str, tuple[Token, bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is still to be written and let the file go."""
        self.flush()
        self._db.close()

    def _bring_up_to_date(self) -> None:
        with self._transaction():
            (version,) = self._db.execute("pragma user_version").fetchone()
            if version > VERSION:
                raise JoulebookError(f"{self.path} is of version {version}, this is {VERSION}", "upgrade joulebook")
            if version == 0:
                for statement in _TABLES.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"pragma user_version = {VERSION}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("begin immediate")
        try:
            yield
            self._db.execute("commit")
        except BaseException:
            self._db.execute("rollback")
            raise

    # -- tokens

    def create(
        self,
        name: str,
        *,
        write: Sequence[str] = (),
        read: Sequence[str] = (),
        admin: bool = False,
        expires_at_us: int | None = None,
        actor: str,
    ) -> tuple[Token, str]:
        """A new token and the text that its holder sends: the only time that it is seen."""
        if not (write or read or admin):
            raise BadInput("a token that may do nothing", "give --write, --read or --admin")
        if expires_at_us is not None and expires_at_us <= utc_us():
            raise BadInput("the token would have expired already", "give a later time, or none")
        token = Token(secrets.token_hex(6), name, tuple(write), tuple(read), admin, utc_us(), expires_at_us)
        with self._transaction():
            secret = self._insert(token)
            self._note(actor, "token create", token.token_id, "done", _scopes(token))
        return token, secret

    def rotate(self, token_id: str, *, grace_us: int, actor: str) -> tuple[Token, str]:
        """A new token with the scopes and name of that one, which ends after the grace."""
        old = self.get(token_id)
        now = utc_us()
        if old.state(now) != "active":
            raise BadInput(f"token {token_id} is {old.state(now)}", "create a new one")
        lasts = None if old.expires_at_us is None else now + old.expires_at_us - old.created_at_us
        new = Token(secrets.token_hex(6), old.name, old.write, old.read, old.admin, now, lasts)
        ends = min(now + grace_us, old.expires_at_us or now + grace_us)
        with self._transaction():
            secret = self._insert(new)
            self._db.execute("update token set expires_at_us = ? where token_id = ?", [ends, token_id])
            self._note(actor, "token rotate", token_id, "done", f"replaced by {new.token_id}")
        return new, secret

    def revoke(self, token_id: str, *, actor: str) -> Token:
        """End a token now; a second time changes nothing."""
        old = self.get(token_id)
        with self._transaction():
            self._db.execute(
                "update token set revoked_at_us = ? where token_id = ? and revoked_at_us is null", [utc_us(), token_id]
            )
            self._note(actor, "token revoke", token_id, "done", _scopes(old))
        return self.get(token_id)

    def get(self, token_id: str) -> Token:
        """The token of that id. Raises BadInput when there is none."""
        found = [token for token in self.tokens() if token.token_id == token_id]
        if not found:
            raise BadInput(f"there is no token {token_id}", "'joulebook token list' names them")
        return found[0]

    def tokens(self) -> list[Token]:
        """Every token ever made, oldest first."""
        return [token for token, _ in self._read()]

    def check(self, header: str) -> Token:
        """The token that an Authorization header carries. Raises Refused."""
        scheme, _, text = header.partition(" ")
        pieces = text.strip().split("_", 2)
        if scheme.lower() != "bearer" or len(pieces) != 3 or pieces[0] != MARK:
            raise Refused("no token" if not header else "no token of ours")
        self._refresh()
        token, digest = self._tokens.get(pieces[1], (EVERYTHING, b""))
        alike = hmac.compare_digest(_digest(pieces[2]), digest)
        if not alike:
            raise Refused("wrong secret" if digest else "unknown token", token.token_id)
        now = utc_us()
        if (state := token.state(now)) != "active":
            raise Refused(f"token {state}", token.token_id)
        self._used[token.token_id] = now
        return token

    def flush(self) -> None:
        """Write when tokens were last used; the collector does so once a minute."""
        used, self._used = self._used, {}
        if used:
            with self._transaction():
                self._db.executemany(
                    "update token set used_at_us = ? where token_id = ?", [(at, name) for name, at in used.items()]
                )
            self._seen = None

    def _refresh(self) -> None:
        (version,) = self._db.execute("pragma data_version").fetchone()  # changes when another connection commits
        if version != self._seen:
            self._tokens = {token.token_id: (token, digest) for token, digest in self._read()}
            self._seen = version

    def _read(self) -> list[tuple[Token, bytes]]:
        rows = self._db.execute(
            "select token_id, name, write, read, admin, created_at_us, expires_at_us, revoked_at_us, used_at_us, digest"
            " from token order by created_at_us, token_id"
        ).fetchall()
        return [
            (Token(name, label, tuple(json.loads(write)), tuple(json.loads(read)), bool(admin), *instants), digest)
            for name, label, write, read, admin, *instants, digest in rows
        ]

    def _insert(self, token: Token) -> str:
        secret = secrets.token_urlsafe(32)
        self._db.execute(
            "insert into token values (?, ?, ?, ?, ?, ?, ?, ?, null, null)",
            [
                *(token.token_id, token.name, _digest(secret), json.dumps(token.write), json.dumps(token.read)),
                *(int(token.admin), token.created_at_us, token.expires_at_us),
            ],
        )
        self._seen = None
        return f"{MARK}_{token.token_id}_{secret}"

    # -- the log

    def note(self, actor: str, act: str, subject: str, outcome: str, detail: str = "") -> None:
        """Add a line to the audit log."""
        with self._transaction():
            self._note(actor, act, subject, outcome, detail)

    def _note(self, actor: str, act: str, subject: str, outcome: str, detail: str) -> None:
        self._db.execute(
            "insert into audit (at_us, actor, act, subject, outcome, detail) values (?, ?, ?, ?, ?, ?)",
            [utc_us(), *(_plain(text) for text in (actor, act, subject, outcome, detail))],
        )

    def audited(self, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """Lines of the audit log with a number above ``after``, oldest first."""
        names = ("n", "at_us", "actor", "act", "subject", "outcome", "detail")
        rows = self._db.execute(f"select {', '.join(names)} from audit where n > ? order by n limit ?", [after, limit])  # noqa: S608
        return [dict(zip(names, row, strict=True)) for row in rows]


def _digest(secret: str) -> bytes:
    return blake2b(secret.encode("utf-8", "surrogateescape"), digest_size=32).digest()


def _scopes(token: Token) -> str:
    return json.dumps({"write": token.write, "read": token.read, "admin": token.admin})


def _plain(text: str) -> str:
    """Text that SQLite can hold and a terminal can show, whoever sent it."""
    return text.encode("ascii", "backslashreplace").decode()[:500]
