"""What an operator can act on: one line of cause, one of remedy, an exit status."""

from __future__ import annotations

FAILURE = 1
USAGE = 2


class JoulebookError(Exception):
    """Base of all errors shown to people without a traceback.

    cause: one line, what is wrong and where.  remedy: one line, what to do about it.
    exit_status: 1 for the world, 2 for what was asked.
    """

    exit_status = FAILURE

    def __init__(self, cause: str, remedy: str) -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy

    def lines(self, verb: str) -> str:
        """The two lines that the command line prints."""
        return f"joulebook {verb}: {self.cause}\n  try: {self.remedy}"


class BadInput(JoulebookError):
    """A value, row or file that cannot be taken; nothing of it was stored."""

    exit_status = USAGE


class MeterUnavailable(JoulebookError):
    """A power source that is absent or unreadable here; never a source that reads zeros.

    patience_seconds: how long not to ask it again; a driver that is loaded meanwhile is what is waited for.
    """

    patience_seconds = 30.0


class LedgerError(JoulebookError):
    """The ledger cannot be opened, is of a newer schema, or breaks a law."""
