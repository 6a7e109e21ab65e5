"""The clock that requests wait by: real, or a test's."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


def _uniform(most: float) -> float:
    return random.uniform(0.0, most)  # noqa: S311 - spreads retries, guards nothing


@dataclass(frozen=True, slots=True)
class Waits:
    """now: UTC seconds, comparable between processes.  sleep: seconds.  jitter: a random part of so many seconds."""

    now: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    jitter: Callable[[float], float] = _uniform
