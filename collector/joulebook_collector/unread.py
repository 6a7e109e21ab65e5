"""A row that could not be read, or that breaks a limit: kept as it came, so that nothing is lost with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Unread:
    """Stands in a batch where a row would: the ledger brings it to quarantine under its seq.

    kind: as the row says it, "" when it says none.  text: its JSON, in one form for equal values.  reason: for people.
    """

    kind: str
    text: str
    reason: str


def canonical(value: Any) -> str:
    """JSON text in ASCII with sorted keys, whatever the value holds: NaN, numbers of any size, half surrogates."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
