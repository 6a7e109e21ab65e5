"""Times as providers write them, as UTC microseconds: a time without a zone is refused, not guessed."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from joulebook_collector.grid import ProviderError

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US


def moment_us(text: Any, name: str) -> int:
    """ISO 8601 with a zone as UTC microseconds.  name: of the provider. Raises ProviderError on anything else."""
    try:
        at = datetime.fromisoformat(text)
    except (ValueError, TypeError):
        raise ProviderError(f"{name}: {text!r} is no time", "its answers have another shape than documented") from None
    if at.tzinfo is None:
        raise ProviderError(
            f"{name}: the time {text!r} names no zone", "its answers have another shape than documented"
        )
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    return since.days * 24 * HOUR_US + since.seconds * 1_000_000 + since.microseconds


def written(at_us: int, form: str = "%Y-%m-%dT%H:%M:%SZ") -> str:
    """UTC microseconds as a provider wants them."""
    return datetime.fromtimestamp(at_us // 1_000_000, tz=UTC).strftime(form)


def step_of(starts_us: list[int], name: str) -> int:
    """Length of evenly spaced periods from their starts, ascending: the smallest distance, of which all are multiples.

    Raises ProviderError where they are not, or there are fewer than two.
    """
    gaps = [after - before for before, after in pairwise(starts_us)]
    step = min(gaps, default=0)
    if step <= 0 or any(gap % step for gap in gaps):
        raise ProviderError(f"{name}: how long its periods are cannot be told", "ask for a longer range")
    return step


def field(value: Any, key: str, name: str) -> Any:
    """value[key] of an object in an answer. Raises ProviderError where there is none."""
    if not isinstance(value, dict) or key not in value:
        raise ProviderError(f"{name}: an answer without {key!r}", "its answers have another shape than documented")
    return value[key]


def rows(value: Any, name: str) -> list[Any]:
    """A list in an answer. Raises ProviderError where it is none."""
    if not isinstance(value, list):
        raise ProviderError(f"{name}: a list is missing", "its answers have another shape than documented")
    return value


def number(value: Any) -> float | None:
    """A number, also written as text; None for null. NaN where it is neither."""
    if value is None:
        return None
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return float("nan")
