"""With a collector set, nothing on the machine takes a row from it: run tells its own, report says where they go."""

import json
import sys

import pytest
from collector_server import Collector
from conftest import is_alive, wait_for
from joulebook.outbox import Outbox
from joulebook_collector.conservation import verify
from joulebook_collector.ledger import Ledger

TRAINER = """
import joulebook, time
with joulebook.track("shipped"), joulebook.phase("train"):
    time.sleep(2.5)
"""


def waiting(simulated) -> int:
    """Rows in the outbox."""
    total = 0
    for path in simulated.home.outboxes.glob("*.sqlite"):
        outbox = Outbox(path, writer=False)
        total += outbox.depth()
        outbox.close()
    return total


@pytest.mark.slow
def test_run_and_report_leave_the_collector_its_rows(simulated, tmp_path):
    simulated.powercap("--packages", "1", "--curve", "constant:100")
    with Collector(tmp_path / "collector.duckdb") as collector:
        simulated.environ["JOULEBOOK_COLLECTOR_URL"] = collector.url
        done = simulated.joulebook("run", "--json", str(tmp_path / "run.json"), "--", sys.executable, "-c", TRAINER)
        assert done.returncode == 0, done.stderr
        told = json.loads((tmp_path / "run.json").read_text())
        assert told["missing"] == f"rows go to the collector {collector.url}, which prices them"
        assert told["coverage"] > 0.99
        assert f"emissions {told['missing']}" in done.stderr
        for _ in ("as the agent is set", "in a shell that knows of no collector"):
            report = simulated.joulebook("report")
            assert report.returncode == 2
            assert f"go to the collector {collector.url}: what waits is not taken here, ask that one" in report.stderr
            assert "the ledger holds no run" in report.stderr
            simulated.environ.pop("JOULEBOOK_COLLECTOR_URL", None)
        pid = simulated.statuses()[0]["pid"]
        wait_for(lambda: not is_alive(pid), 60, "the agent's end")
        assert waiting(simulated) == 0
    with Ledger.open(simulated.home.ledger) as ledger:
        assert (ledger.runs(), ledger.measurements()) == ([], [])
    with Ledger.open(collector.path) as ledger:
        run = ledger.run(told["run_id"])
        assert (run.labels.name, run.status) == ("shipped", "ok")
        rows = ledger.measurements(run_ids=[run.run_id])
        check = verify(ledger)
        assert (check.quarantined, check.missing_rows) == (0, 0)
    mine = sum(share.millijoules for m in rows for share in m.shares if share.run_id == run.run_id)
    assert told["energy_total_joules"] == mine / 1000
    truth = simulated.truth(run.started_ns, run.ended_ns)
    assert told["energy_joules"]["cpu"] == pytest.approx(sum(truth.values()), rel=0.03)
