"""Answers kept on disk with when they were learnt: bounded, whole or absent, never a secret in them."""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Kept:
    """The body of an answer, and when it was given: UTC seconds."""

    body: bytes
    learnt_at: float


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of answers, the oldest of which go when it is larger than ``most_bytes``."""

    folder: Path
    most_bytes: int = MOST_BYTES

    def get(self, url: str, now: float, max_age_seconds: float) -> Kept | None:
        """The answer to a URL (without its secrets) if it is no older than that; None when absent or damaged."""
        try:
            head, _, body = self._path(url).read_bytes().partition(b"\n")
            told = json.loads(head)
            learnt_at, digest = float(told["learnt_at"]), told["sha256"]
        except (OSError, ValueError, TypeError, KeyError):
            return None
        fresh = 0 <= now - learnt_at <= max_age_seconds
        return Kept(body, learnt_at) if fresh and sha256(body).hexdigest() == digest else None

    def put(self, url: str, kept: Kept) -> None:
        """Keep an answer, and drop the oldest that do not fit beside it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        head = {"url": url, "learnt_at": kept.learnt_at, "sha256": sha256(kept.body).hexdigest()}
        descriptor, name = tempfile.mkstemp(dir=self.folder, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(head).encode() + b"\n" + kept.body)
            Path(name).replace(self._path(url))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._bound()

    def _path(self, url: str) -> Path:
        return self.folder / f"{sha256(url.encode()).hexdigest()[:40]}.answer"

    def _bound(self) -> None:
        """Another process may remove the same files meanwhile."""
        found = []
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime_ns, status.st_size, path))
        size = sum(each for _, each, _ in found)
        for _, each, path in sorted(found):
            if size <= self.most_bytes:
                return
            path.unlink(missing_ok=True)
            size -= each
