"""A collector as people run it: a real agent ships to it, reports read its home while it runs and after."""

import json
import signal
import subprocess
import sys

import pytest
from collector_server import authority
from conftest import JOULEBOOK, wait_for
from joulebook.errors import LedgerError
from joulebook_collector.conservation import verify
from joulebook_collector.ledger import Ledger
from joulebook_collector.testing import a_measurement, a_run
from service import Service

TRAINER = """
import joulebook, time
with joulebook.track("shipped"), joulebook.phase("train"):
    time.sleep(4)
"""


@pytest.mark.slow
def test_a_real_agent_ships_over_tls_and_the_book_holds_its_joules_once(simulated, tmp_path):
    simulated.powercap("--packages", "1", "--dram", "--curve", "constant:100")
    ca, certificate = authority(tmp_path, "collector")
    service = Service(tmp_path / "book", certificate=certificate, ca=ca)
    token = tmp_path / "token"
    token.write_text(service.token("node", write=["*"]))
    token.chmod(0o600)
    with service:
        simulated.environ |= {
            "JOULEBOOK_COLLECTOR_URL": service.url,
            "JOULEBOOK_COLLECTOR_CA_FILE": str(ca),
            "JOULEBOOK_COLLECTOR_TOKEN_FILE": str(token),
            "JOULEBOOK_GRACE_SECONDS": "0",
        }
        agent = simulated.start("agent", stderr=subprocess.DEVNULL)
        wait_for(simulated.statuses, what="the agent")
        subprocess.run([sys.executable, "-c", TRAINER], env=simulated.environ, check=True)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(30) == 0
        assert service.stop() == 0
    with service.ledger() as ledger:
        simulated.holds_the_shipped_run(ledger)


def report(service, *words):
    words = words or ("run", "r1", "--json")
    ended = subprocess.run(
        [*JOULEBOOK, "report", *words], env=service.environ, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout), ended.stderr


def test_a_report_reads_the_same_while_the_collector_runs_and_after(tmp_path):
    with Service(tmp_path / "home", words=("--no-tokens",)) as service:
        assert service.post([a_run(), a_measurement(energy_millijoules=4321)]) == (
            200,
            {"acknowledged": 2, "refused": []},
        )
        during, said = report(service)
        assert "a collector has the ledger; asking it" in said
        assert service.stop() == 0
        after, said = report(service)
    assert said == ""
    assert during == after
    assert not (service.root / "ledger.duckdb.sock").exists()


def test_what_the_command_line_adds_while_the_collector_runs_is_in_the_one_book(tmp_path):
    with Service(tmp_path / "home", words=("--no-tokens",)) as service:
        service.post([a_run(), a_measurement()])
        words = ["site", "add", "local", "--zone", "DE", "--pue", "1.25", "--pue-source", "meter"]
        subprocess.run([*JOULEBOOK, *words], env=service.environ, check=True, capture_output=True, timeout=60)
        service.post([a_measurement(10, 20)], first=3)
        _, energy, _ = service.ask("GET", "/v1/runs/r1/energy")
        assert {line["pue"] for line in energy["lines"]} == {1.25}
        service.stop()
    with service.ledger() as ledger:
        txns = [txn for (txn,) in ledger.query("select txn from log order by txn")]
        assert txns == list(range(1, len(txns) + 1))
        verify(ledger)


def test_it_says_where_it_listens_and_that_it_stopped_and_nothing_else(tmp_path):
    service = Service(tmp_path / "home", words=("--no-tokens",))
    with service:
        service.post([a_run()])
        service.ask("GET", "/v1/runs")
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(30) == 0
        rest = service.process.stdout.read()
    assert rest == "joulebook collector: stopped, everything acknowledged is in the ledger\n"
    assert service.log() == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--listen", "0.0.0.0:0"], "unencrypted"),
        (["--listen", "0.0.0.0:0", "--insecure", "--no-tokens"], "could write and read"),
        (["--listen", "127.0.0.1"], "is no address"),
        (["--cert", __file__], "a certificate without its key"),
    ],
)
def test_what_would_be_unsafe_is_refused_at_the_start(tmp_path, words, says):
    ended = subprocess.run(
        [*JOULEBOOK, "collector", "--home", str(tmp_path / "h"), *words], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert says in ended.stderr
    assert "\n  try: " in ended.stderr


def test_a_second_collector_of_the_same_home_waits_then_gives_up(tmp_path):
    with Service(tmp_path / "home", words=("--no-tokens",)) as service:
        with pytest.raises(LedgerError, match="has had"):
            Ledger.open(service.home.ledger, wait_seconds=0.2, own=True)
        with Ledger.open(service.home.ledger, wait_seconds=0.2) as visited:
            assert visited.query("select 1") == [(1,)]
