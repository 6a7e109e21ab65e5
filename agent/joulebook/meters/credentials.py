"""Credentials of a management controller, from a file that only its owner may read. They are never shown."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from joulebook.meters import MeterUnavailable

SESSION: Final = "X-Auth-Token:"
MOST_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user with a password, or a session token alone; neither the password nor the token is in its repr."""

    user: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def headers(self) -> dict[str, str]:
        """What an HTTP request carries of them."""
        if self.token:
            return {"X-Auth-Token": self.token}
        pair = b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {pair}"}


def read_credentials(path: Path, variable: str) -> Credentials:
    """One line, ``USER:PASSWORD`` or ``X-Auth-Token: TOKEN``, of a file of mode 0600 or 0400.

    variable: the setting that names it.  Raises MeterUnavailable, which repeats nothing of the file.
    """
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(MOST_BYTES)
    except OSError as error:
        raise MeterUnavailable(f"{path}: {error.strerror}", f"set {variable} to a file that you may read") from error
    if mode & 0o177:
        raise MeterUnavailable(f"{path} has mode {mode:04o}: others may read it", f"chmod 600 {path}")
    found = _parsed(text)
    if found is None:
        raise MeterUnavailable(
            f"{path} holds no credentials", f"write one line into it: USER:PASSWORD, or {SESSION} TOKEN"
        )
    return found


def _parsed(text: bytes) -> Credentials | None:
    try:
        line = text.decode().strip("\r\n")
    except UnicodeDecodeError:
        return None
    if not line.isprintable():
        return None
    if line.startswith(SESSION):
        token = line.removeprefix(SESSION).strip()
        return Credentials(token=token) if token and token.isascii() else None
    user, colon, password = line.partition(":")
    return Credentials(user, password) if user and colon else None
