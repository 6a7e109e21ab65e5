"""joulebook: who spent the energy, on what technique, and what it emitted.

The SDK is ``track``, ``phase`` and ``log``; everything else is the agent's and the command line's.
"""

from joulebook.sdk import Track, log, phase, track

__all__ = ["Track", "log", "phase", "track"]
