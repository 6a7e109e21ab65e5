"""What a provider's fetch is given to ask with: answers from the cache or the server, read as JSON or XML."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from joulebook_collector.grid import Provider, ProviderError
from joulebook_collector.grid.cache import Cache, Kept
from joulebook_collector.grid.client import Client, Params
from joulebook_collector.grid.keys import address_of, key_of
from joulebook_collector.grid.limits import Bucket
from joulebook_collector.grid.waits import Waits


@dataclass(slots=True)
class Session:
    """One provider, asked over and over.

    max_age_seconds: how old an answer may be that is taken from the cache; below 0, none is.  learnt_at: UTC
    seconds of the oldest answer since ``begin``.  memory: what a provider remembers between requests.
    """

    client: Client
    cache: Cache
    waits: Waits
    key: str = ""
    max_age_seconds: float = -1.0
    learnt_at: float | None = None
    memory: dict[str, Any] = field(default_factory=dict)
    _answers: dict[str, Kept] = field(default_factory=dict)

    def begin(self, max_age_seconds: float) -> None:
        """What follows is one range's; answers of an earlier one that was not kept are forgotten."""
        self.max_age_seconds, self.learnt_at = max_age_seconds, None
        self._answers.clear()

    def keep(self) -> None:
        """Keep the answers since ``begin``: their values proved to be some. None is kept that repeats a secret."""
        for url, kept in self._answers.items():
            if not any(secret.encode() in kept.body for secret in self.client.secrets):
                self.cache.put(url, kept)
        self._answers.clear()

    def json(
        self, path: str, params: Params = (), *, secret_params: Params = (), headers: Mapping[str, str] | None = None
    ) -> Any:
        """The answer as JSON. Raises ProviderError when it is none."""
        return self._read(_json, path, params, secret_params, headers)

    def xml(self, path: str, params: Params = (), *, secret_params: Params = ()) -> ElementTree.Element:
        """The answer's root element. Raises ProviderError when it is no XML, or defines entities."""
        found: ElementTree.Element = self._read(_xml, path, params, secret_params, None)
        return found

    def login(self, path: str, credentials: str) -> Any:
        """The JSON that a server gives for USER:PASSWORD; never kept on disk."""
        basic = base64.b64encode(credentials.encode()).decode()
        body = self.client.get(path, headers={"Authorization": f"Basic {basic}"})
        return self._parsed(_json, body, self.client.url(path))

    def keep_secret(self, text: str) -> None:
        """Strike this text out of every message."""
        self.client.secrets.append(text)

    def learnt(self, at: float) -> None:
        """Note when an answer was given."""
        self.learnt_at = at if self.learnt_at is None else min(self.learnt_at, at)

    def _read(
        self,
        parse: Callable[[bytes], Any],
        path: str,
        params: Params,
        secret_params: Params,
        headers: Mapping[str, str] | None,
    ) -> Any:
        url = self.client.url(path, params)
        kept = self.cache.get(url, self.waits.now(), self.max_age_seconds)
        if kept is not None:
            self.learnt(kept.learnt_at)
            return self._parsed(parse, kept.body, url)
        body = self.client.get(path, params, secret_params=secret_params, headers=headers)
        found = self._parsed(parse, body, url)
        self._answers[url] = Kept(body, self.waits.now())
        self.learnt(self._answers[url].learnt_at)
        return found

    def _parsed(self, parse: Callable[[bytes], Any], body: bytes, url: str) -> Any:
        try:
            return parse(body)
        except (ValueError, ElementTree.ParseError, RecursionError) as error:
            reason = self.client.scrubbed(str(error))[:200]
            raise ProviderError(
                f"{self.client.name}: {url}: the answer cannot be read: {reason}", "ask again later; nothing was stored"
            ) from None


def open_session(provider: Provider, folder: Path, waits: Waits | None = None) -> Session:
    """A session of the provider, with its files under ``folder``. Raises BadInput where a setting is missing."""
    waits = waits or Waits()
    key = key_of(provider)
    bucket = Bucket(folder / "limits" / f"{provider.name}.json", provider.rate, waits)
    client = Client(provider.name, address_of(provider) if provider.online else "", bucket, waits)
    session = Session(client, Cache(folder / "answers"), waits, key)
    for part in {key, *key.split(":", 1)[1:]}:
        if part:
            session.keep_secret(part)
    return session


def _json(body: bytes) -> Any:
    return json.loads(body)


def _xml(body: bytes) -> ElementTree.Element:
    if b"<!DOCTYPE" in body or b"<!ENTITY" in body:
        raise ValueError("it defines entities")
    return ElementTree.fromstring(body)  # noqa: S314 - no document type, so no entity to expand
