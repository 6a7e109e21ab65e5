"""A real agent ships to a collector over TLS: the book there holds the run and its joules, each once."""

import signal
import subprocess
import sys

import pytest
from collector_server import DROP_AFTER, DROP_BEFORE, Collector, authority
from conftest import wait_for
from joulebook_collector.ledger import Ledger

TRAINER = """
import joulebook, time
with joulebook.track("shipped"), joulebook.phase("train"):
    time.sleep(6)
"""


@pytest.mark.slow
def test_a_run_is_in_the_collectors_book(simulated, tmp_path):
    simulated.powercap("--packages", "1", "--dram", "--curve", "constant:100")
    ca, certificate = authority(tmp_path, "collector")
    token = tmp_path / "token"
    token.write_text("a-token")
    token.chmod(0o600)
    with Collector(tmp_path / "collector.duckdb", certificate=certificate, token="a-token") as collector:
        collector.faults.extend([DROP_BEFORE, DROP_AFTER])
        simulated.environ |= {
            "JOULEBOOK_COLLECTOR_URL": collector.url,
            "JOULEBOOK_COLLECTOR_CA_FILE": str(ca),
            "JOULEBOOK_COLLECTOR_TOKEN_FILE": str(token),
            "JOULEBOOK_GRACE_SECONDS": "0",
        }
        agent = simulated.start("agent", stderr=subprocess.DEVNULL)
        wait_for(simulated.statuses, what="the agent")
        subprocess.run([sys.executable, "-c", TRAINER], env=simulated.environ, check=True)
        wait_for(lambda: len(collector.requests) >= 3, 90, "a batch that is answered")
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
    with Ledger.open(collector.path) as ledger:
        simulated.holds_the_shipped_run(ledger)
