"""One rank of a job: tracks itself, starts sleeping children, and logs as often as told until it is ended.

python rank.py CHILDREN LOG_SECONDS        (0: it never logs)
"""

import contextlib
import signal
import subprocess
import sys
import time

import joulebook


def leave(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    signal.signal(signal.SIGTERM, leave)
    children = [subprocess.Popen(["sleep", "3600"]) for _ in range(int(sys.argv[1]))]
    seconds = float(sys.argv[2])
    try:
        with contextlib.suppress(KeyboardInterrupt), joulebook.track("bench"), joulebook.phase("train"):
            step = 0
            while True:
                time.sleep(seconds or 3600)
                step += 1
                joulebook.log(step=step, samples=64, loss=0.5)
    finally:
        for child in children:
            child.kill()


if __name__ == "__main__":
    main()
