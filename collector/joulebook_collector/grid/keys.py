"""A provider's address and key: from a file or the environment, never from the command line, never shown."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from joulebook.errors import BadInput

from joulebook_collector.grid import Provider

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def key_of(provider: Provider, environ: Mapping[str, str] = os.environ) -> str:
    """The provider's key, "" where it needs none. Raises BadInput when it is missing, empty or open to others."""
    if not provider.key_setting:
        return ""
    named, said = environ.get(provider.key_file_setting), environ.get(provider.key_setting, "")
    key = _from_file(Path(named), provider.key_file_setting) if named else said.strip()
    if not key:
        raise BadInput(
            f"{provider.title} needs a key ({provider.key_is})",
            f"put it into a file and name that in {provider.key_file_setting}",
        )
    if not key.isascii() or not key.isprintable():
        raise BadInput(f"the key of {provider.title} is not one line of text", "write the key alone into its file")
    return key


def address_of(provider: Provider, environ: Mapping[str, str] = os.environ) -> str:
    """Where the provider is asked. Raises BadInput on an address that cannot be, or would show the key."""
    url = environ.get(provider.url_setting) or provider.url
    wanted = f"set {provider.url_setting} to http(s)://HOST[:PORT][/PATH], without a user, query or fragment"
    if not url:
        raise BadInput(f"{provider.title} has no address", wanted)
    try:
        parts = urlsplit(url)
        plain = parts.port is None or parts.port > 0
    except ValueError:  # it may hold a password: it is not repeated
        raise BadInput(f"{provider.url_setting} cannot be read", wanted) from None
    plain = plain and not (parts.username or parts.password or parts.query or parts.fragment)
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise BadInput(f"{provider.url_setting} is no address", wanted)
    if parts.scheme == "http" and provider.key_setting and parts.hostname not in LOOPBACK:
        raise BadInput(f"the key would go to {parts.hostname} unencrypted", "give an https:// address")
    return url.rstrip("/")


def _from_file(path: Path, variable: str) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not plain text"
        raise BadInput(f"{variable}: cannot read {path}: {reason}", "name a file that holds the key") from None
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise BadInput(f"{variable}: {path} is open to others", f"chmod 600 {path}")
    return text
