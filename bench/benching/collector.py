"""A collector that agents ship to over TLS, in a process of its own: the one of the tests, with a real ledger.

python collector.py FOLDER          prints its URL once it listens; ends with its standard input
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from collector_server import Collector, authority


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir()
    ca, certificate = authority(folder, "bench")
    ca.rename(folder / "ca.pem")
    with Collector(folder / "ledger.duckdb", certificate=certificate) as collector:
        print(collector.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
