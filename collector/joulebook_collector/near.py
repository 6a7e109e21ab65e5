"""Words that were mistyped: what was perhaps meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def near(word: str, known: Iterable[str], most: int = 5) -> list[str]:
    """Known words near this one, nearest first, without regard to case."""
    by_fold = {name.casefold(): name for name in sorted(known, reverse=True)}
    return [by_fold[match] for match in get_close_matches(word.casefold(), by_fold, n=most, cutoff=0.6)]
