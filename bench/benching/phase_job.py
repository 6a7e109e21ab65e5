"""A job that marks phases of equal length, each under its own name, in step with a power curve or anywhere.

python phase_job.py T0_NS PERIOD_SECONDS PHASE_SECONDS hot|any SEED SECONDS
"""

import random
import sys
import time

import joulebook

JITTER_SECONDS = 0.15


def sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - now()))


def now() -> float:
    """CLOCK_BOOTTIME seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def main() -> None:
    t0, period, length = float(sys.argv[1]) / 1e9, float(sys.argv[2]), float(sys.argv[3])
    hot, seed, seconds = sys.argv[4] == "hot", sys.argv[5], float(sys.argv[6])
    rng = random.Random(seed)
    until = now() + seconds
    n = 0
    with joulebook.track("phases"):
        time.sleep(2)
        while True:
            next_high = t0 + ((now() + JITTER_SECONDS - t0) // period + 1) * period
            begin = next_high + (
                rng.uniform(-JITTER_SECONDS, JITTER_SECONDS) if hot else rng.uniform(0, period - length)
            )
            if begin + length > until:
                break
            sleep_until(begin)
            with joulebook.phase(f"p{n}"):
                # A hot phase ends about when its load does, a little before or after.
                sleep_until(begin + length - (rng.uniform(-JITTER_SECONDS, JITTER_SECONDS) if hot else 0.0))
            n += 1
        time.sleep(2)


if __name__ == "__main__":
    main()
