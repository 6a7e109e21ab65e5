"""A job of several ranks, as a launcher starts one: each knows its rank, and has children.

python ranks.py RANKS CHILDREN LOG_SECONDS
"""

import os
import signal
import subprocess
import sys
from pathlib import Path


def main() -> None:
    count = int(sys.argv[1])
    command = [sys.executable, str(Path(__file__).with_name("rank.py")), *sys.argv[2:]]
    ranks = [
        subprocess.Popen(command, env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(count)})
        for rank in range(count)
    ]
    signal.signal(signal.SIGTERM, lambda *_: [rank.terminate() for rank in ranks])
    for rank in ranks:
        rank.wait()


if __name__ == "__main__":
    main()
