"""Asking a source in a thread of its own, so that one that is slow or gone never holds the agent up."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from joulebook.meters import Busy, Device, LeftOut, MeterUnavailable, Reading

OPEN_SECONDS: Final = 0.2
"""How long an opener waits for the first answer: the agent is ready within 0.3 s, whatever the source does."""
JITTER: Final = 0.1
"""Polls are spread by up to a tenth of their period, so that no fleet asks at once and no load beats with them."""
LONGEST_PAUSE_SECONDS: Final = 60.0
"""Back-off doubles from the poll period up to this: so late at most is it seen that a source is back."""
REFUSED_PAUSE_SECONDS: Final = 300.0
"""After a refusal, such as of a password: who asks often then is locked out."""
CLOSE_SECONDS: Final = 0.5
LEAST_POLL_SECONDS: Final = 0.1
MOST_POLL_SECONDS: Final = 60.0


class NoAnswer(MeterUnavailable):
    """What a source said, or did not say, in place of a reading. lasting: asking again soon cannot help."""

    def __init__(self, cause: str, remedy: str, *, lasting: bool = False) -> None:
        super().__init__(cause, remedy)
        self.lasting = lasting
        if lasting:
            self.patience_seconds = REFUSED_PAUSE_SECONDS


class Poller:
    """Calls ``ask`` every period_seconds in a thread until closed.

    ask: one look at the source; raises NoAnswer.  overdue_seconds: a look that takes longer is told as failing.
    end: called in the thread when it ends, to give back what ``ask`` holds.
    """

    def __init__(
        self,
        name: str,
        ask: Callable[[], Sequence[Reading]],
        period_seconds: float,
        overdue_seconds: float,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._ask, self._end = name, ask, end
        self._period, self._overdue = period_seconds, overdue_seconds
        self._lock = threading.Lock()
        self._stop, self._wake, self._answered = threading.Event(), threading.Event(), threading.Event()
        self._fresh: Sequence[Reading] = ()
        self._error: NoAnswer | None = None
        self._asking_since: float | None = None
        self.failures = 0
        self._thread = threading.Thread(target=self._run, name=f"joulebook-{name}", daemon=True)
        self._thread.start()

    def take(self) -> Sequence[Reading]:
        """The newest readings, once: what was taken is never given again as if it were new."""
        with self._lock:
            fresh, self._fresh = self._fresh, ()
        return fresh

    @property
    def failing(self) -> NoAnswer | None:
        """Why there is no reading at present, None while the source answers."""
        since = self._asking_since
        if since is not None and time.monotonic() - since > self._overdue:
            return NoAnswer(f"{self._name} has not answered for {time.monotonic() - since:.0f} s", "see its own log")
        return self._error

    def wait(self, seconds: float) -> bool:
        """Whether the first look came to an end, well or badly, within so many seconds."""
        return self._answered.wait(seconds)

    def ask_now(self, seconds: float) -> bool:
        """Look before the time, as at a run's end, and wait so long. False where that cannot help or takes longer."""
        if self._error is not None and self._error.lasting:
            return False
        self._answered.clear()
        self._wake.set()
        return self._answered.wait(seconds)

    def close(self) -> None:
        """End the thread; one that hangs in the source is left behind and ends with it."""
        self._stop.set()
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._wake.clear()
                began = time.monotonic()
                self._asking_since = began
                self._look()
                self._asking_since = None
                self._answered.set()
                self._wake.wait(self._pause(time.monotonic() - began))
        finally:
            self._end()

    def _look(self) -> None:
        try:
            readings = self._ask()
        except NoAnswer as error:
            self._error = error
        except Exception as error:  # noqa: BLE001  whatever one source does, the agent goes on and tells of it
            # The type only: a message may quote what was sent, credentials too.
            self._error = NoAnswer(f"{self._name}: {type(error).__name__} in its reader", "report this as a defect")
        else:
            with self._lock:
                self._fresh = readings
            self._error, self.failures = None, 0
            return
        self.failures += 1

    def _pause(self, spent: float) -> float:
        """Seconds until the next look. Periods run from start to start."""
        spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311
        if self._error is None:
            return max(self._period * spread - spent, self._period * JITTER)
        if self._error.lasting:
            return REFUSED_PAUSE_SECONDS * spread
        return min(self._period * 2.0 ** min(self.failures - 1, 20), LONGEST_PAUSE_SECONDS) * spread


class Polled:
    """A meter whose devices a poller asks. ask_now: for the last look at a run's end, and for ``doctor``."""

    def __init__(self, name: str, devices: Sequence[Device], poller: Poller, left_out: Sequence[LeftOut] = ()) -> None:
        self.name, self.devices = name, devices
        self._passed_over = left_out
        self._poller = poller

    @property
    def left_out(self) -> Sequence[LeftOut]:
        """What is not read: passed over from the start, or all of it while the source does not answer."""
        if (error := self.failing) is not None:
            return [*self._passed_over, LeftOut(self.name, f"not read now: {error.cause}", error.remedy)]
        if not self._poller.wait(0):
            return [*self._passed_over, LeftOut(self.name, "not read now: it has not answered yet")]
        return self._passed_over

    @left_out.setter
    def left_out(self, left_out: Sequence[LeftOut]) -> None:
        self._passed_over = [one for one in left_out if one.what != self.name]

    def read(self) -> Sequence[Reading]:
        """What has come since the last look, with the times at which it was read."""
        return self._poller.take()

    @property
    def failing(self) -> NoAnswer | None:
        """Why there is no reading at present."""
        return self._poller.failing

    def wait(self, seconds: float) -> bool:
        """Whether the source has answered, well or badly, within so many seconds."""
        return self._poller.wait(seconds)

    def ask_now(self, seconds: float) -> bool:
        """Look before the time, and wait so long for the answer, which ``read`` then gives."""
        return self._poller.ask_now(seconds)

    def busy(self) -> Mapping[str, Busy]:
        """Who uses a device is not told from afar."""
        return {}

    def close(self) -> None:
        """End the thread."""
        self._poller.close()


def open_polled(meter: Polled) -> Polled:
    """The meter, once its first look has ended or OPEN_SECONDS are over.

    Raises MeterUnavailable where the answer is a lasting refusal. A source that is slow, or fails in a way that may
    pass, is kept and asked again: what it does not say is missing, never 0.
    """
    meter.wait(OPEN_SECONDS)
    error = meter.failing
    if error is not None and error.lasting:
        meter.close()
        raise error
    return meter


def seconds_of(environ: Mapping[str, str], variable: str, default: float, most: float = MOST_POLL_SECONDS) -> float:
    """A period in seconds that a variable sets. Raises MeterUnavailable."""
    text = environ.get(variable) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not LEAST_POLL_SECONDS <= value <= most:
        raise MeterUnavailable(f"{variable} is {text!r}", f"set it to a number from {LEAST_POLL_SECONDS:g} to {most:g}")
    return value
