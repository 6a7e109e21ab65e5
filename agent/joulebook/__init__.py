"""joulebook: who spent the energy, on what technique, and what it emitted.

The SDK is ``track``, ``phase`` and ``log``; everything else is the agent's and the command line's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joulebook.sdk import Track, log, phase, track

__all__ = ["Track", "log", "phase", "track"]


def __getattr__(name: str) -> Any:
    """The SDK, loaded by the first who asks: the agent never does, and must stay small."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from joulebook import sdk

    globals().update({each: getattr(sdk, each) for each in __all__})
    return globals()[name]
