"""Manifests: numbered lists of the files that a lake consists of, each naming the one before it by its hash."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec
from joulebook.errors import LedgerError

FORMAT: Final = 1
LEVELS: Final = ("raw", "minute", "hour")
"""What a file's rows are: shares as delivered, or merged within a minute or an hour."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file. path: below the lake's root.  hour_us: start of the hour in which all its spans start.

    measurements: how many there are; measured_millijoules: their sum; share_millijoules: the sum of the shares. Both
    are equal in a sound file (law 1).  started_at_us, ended_at_us: from the first start to the last end.
    known_from_us, known_to_us: when the first and the last of its rows came to be known.  made_from: hash of the raw
    file with the same rows; a raw file's own.  crossing: shares whose span crosses a whole minute of UTC, and so may
    touch several pricing slots.
    """

    path: str
    level: str
    hour_us: int
    sha256: str
    made_from: str
    bytes: int
    rows: int
    measurements: int
    measured_millijoules: int
    share_millijoules: int
    started_at_us: int
    ended_at_us: int
    known_from_us: int
    known_to_us: int
    crossing: int

    def reaches(self, starts_us: Sequence[int], slot_us: int) -> bool:
        """Whether some of it may lie in a slot with a row that starts at one of these instants (ascending)."""
        first = bisect_left(starts_us, self.started_at_us - slot_us)
        return first < len(starts_us) and starts_us[first] < self.ended_at_us


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version of the lake. previous, previous_sha256: the version that it was made from; 0 and "" of the first."""

    version: int
    previous: int
    previous_sha256: str
    parts: tuple[Part, ...] = ()
    format: int = FORMAT

    def of_level(self, level: str) -> list[Part]:
        """The files of a level, in order of their hours."""
        return sorted((p for p in self.parts if p.level == level), key=lambda p: (p.hour_us, p.path))

    def merged(self) -> list[Part]:
        """The minutes that stand for raw files which are retired."""
        raw = {p.sha256 for p in self.of_level("raw")}
        return [p for p in self.of_level("minute") if p.made_from not in raw]

    def booked(self) -> list[Part]:
        """The files whose sum is the lake: raw, and minutes where raw files are retired."""
        return [*self.merged(), *self.of_level("raw")]

    def millijoules(self) -> int:
        """What the lake holds."""
        return sum(p.share_millijoules for p in self.booked())


EMPTY: Final = Manifest(0, 0, "")


@dataclass(frozen=True, slots=True)
class Named:
    """A manifest and the hash of its text, by which the ledger names it."""

    manifest: Manifest
    sha256: str


NOTHING: Final = Named(EMPTY, "")


def path_of(version: int) -> str:
    """Where a version's text lies, below the lake's root."""
    return f"manifests/{version:08d}.json"


def encode(manifest: Manifest) -> bytes:
    """Its text: sorted, one part a line, so that versions can be compared by eye."""
    text = msgspec.json.format(msgspec.json.encode(manifest, order="sorted"), indent=1)
    return text + b"\n"


def decode(text: bytes, where: str) -> Named:
    """A manifest from its text. Raises LedgerError when it is none, or of a newer format."""
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.MsgspecError as error:
        raise LedgerError(f"{where} cannot be read: {error}", "restore the lake from a copy") from error
    if manifest.format != FORMAT:
        raise LedgerError(
            f"{where} is of lake format {manifest.format}", f"use a joulebook that knows format {manifest.format}"
        )
    return Named(manifest, hash_of(text))


def hash_of(text: bytes) -> str:
    """SHA-256 in hex."""
    return sha256(text).hexdigest()


def replaced(parts: Iterable[Part], gone: Iterable[Part], new: Iterable[Part]) -> tuple[Part, ...]:
    """The parts without those that are gone, with the new ones, in order of level, hour and path."""
    paths = {part.path for part in gone}
    kept = [part for part in parts if part.path not in paths]
    return tuple(sorted([*kept, *new], key=lambda p: (LEVELS.index(p.level), p.hour_us, p.path)))
