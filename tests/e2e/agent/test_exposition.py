"""What a real agent exposes is what it books: to the millijoule, over a clean restart, and anew after a kill."""

import socket
import urllib.error
import urllib.request
from contextlib import closing

import pytest
from conftest import wait_for
from joulebook.rows import ShareKind
from prometheus_client.parser import text_string_to_metric_families

pytestmark = pytest.mark.slow


@pytest.fixture
def exposed(simulated):
    """A simulated machine whose agents expose themselves, with a short grace."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        simulated.environ["JOULEBOOK_METRICS_ADDRESS"] = f"127.0.0.1:{free.getsockname()[1]}"
    simulated.environ |= {"JOULEBOOK_METERS": "rapl", "JOULEBOOK_GRACE_SECONDS": "2"}
    simulated.powercap("--packages", "2", "--dram", "--curve", "constant:100")
    return simulated


def get(bench, path="/metrics"):
    """Status and text, None where nothing listens."""
    url = f"http://{bench.environ['JOULEBOOK_METRICS_ADDRESS']}{path}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None


def values(bench, name):
    """Every series of a metric: labels -> value; None where nothing listens."""
    answer = get(bench)
    if answer is None:
        return None
    families = text_string_to_metric_families(answer[1])
    return {tuple(sorted(s.labels.items())): s.value for f in families for s in f.samples if s.name == name}


def total(bench, name, **labels):
    found = values(bench, name)
    return None if found is None else round(sum(v for k, v in found.items() if labels.items() <= dict(k).items()), 3)


ENERGY, SHARES, RUNS = (f"joulebook_{name}energy_joules_total" for name in ("", "share_", "run_"))


def test_counters_are_what_is_booked_over_a_clean_restart_and_begin_anew_after_a_kill(exposed):
    agent = exposed.start("agent")
    wait_for(lambda: get(exposed, "/readyz") == (200, "ok\n"), what="a ready agent")
    done = exposed.joulebook("run", "--quiet", "--", "sleep", "3")
    assert done.returncode == 0, done.stderr
    (run,) = exposed.runs().values()
    booked = sum(
        share.millijoules for row in exposed.measurements() for share in row.shares if share.run_id == run.run_id
    )
    assert booked > 100_000
    wait_for(lambda: total(exposed, RUNS, run=run.run_id) == booked / 1000, what="the run's energy")
    shown = total(exposed, ENERGY)
    assert total(exposed, "joulebook_conservation_residual_joules") == 0.0

    agent.terminate()
    agent.wait()
    assert get(exposed) is None
    agent = exposed.start("agent")
    wait_for(lambda: get(exposed, "/healthz") == (200, "ok\n"), what="the next agent")
    assert total(exposed, ENERGY) >= shown, "it goes on where the first stopped"
    assert total(exposed, RUNS, run=run.run_id) == booked / 1000

    agent.kill()
    agent.wait()
    exposed.start("agent")
    wait_for(lambda: get(exposed, "/healthz") == (200, "ok\n"), what="the third agent")
    assert not total(exposed, RUNS, run=run.run_id), "what was shown once is not shown as new"
    assert total(exposed, ENERGY) < shown


def test_shares_add_up_to_measurements_at_every_scrape(exposed):
    exposed.start("agent")
    wait_for(lambda: get(exposed, "/readyz") == (200, "ok\n"), what="a ready agent")
    exposed.start("run", "--quiet", "--", "sleep", "12")
    wait_for(lambda: total(exposed, ENERGY), what="first measurements")
    for _ in range(40):
        answer = get(exposed)[1]
        sums = dict.fromkeys((ENERGY, SHARES), 0)
        for family in text_string_to_metric_families(answer):
            for sample in family.samples:
                if sample.name in sums:
                    sums[sample.name] += round(sample.value * 1000)
        assert sums[ENERGY] == sums[SHARES] > 0
        if f'kind="{ShareKind.RUN}"' in answer and total(exposed, SHARES, kind="run"):
            break
        wait_for(lambda before=sums[ENERGY]: total(exposed, ENERGY) != before / 1000, what="more measurements")
    else:
        raise AssertionError("no share of the run was ever shown")


def test_a_standby_is_healthy_and_not_ready_until_it_takes_over(exposed):
    owner = exposed.start("agent")
    wait_for(lambda: get(exposed, "/readyz") == (200, "ok\n"), what="the owner")
    first = exposed.environ["JOULEBOOK_METRICS_ADDRESS"]
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        exposed.environ["JOULEBOOK_METRICS_ADDRESS"] = f"127.0.0.1:{free.getsockname()[1]}"
    exposed.start("agent", "--standby")
    wait_for(lambda: get(exposed, "/healthz") == (200, "ok\n"), what="the standby")
    assert get(exposed, "/readyz") == (503, "another agent meters this machine: standing by\n")
    owner.kill()
    owner.wait()
    wait_for(lambda: get(exposed, "/readyz") == (200, "ok\n"), what="the takeover")
    assert first != exposed.environ["JOULEBOOK_METRICS_ADDRESS"]


def test_an_address_in_use_is_said_and_the_machine_is_metered_all_the_same(exposed, tmp_path):
    host, _, port = exposed.environ["JOULEBOOK_METRICS_ADDRESS"].partition(":")
    with closing(socket.create_server((host, int(port)))), (tmp_path / "log").open("w+") as log:
        exposed.start("agent", stderr=log)
        exposed.agent_pid()
        assert exposed.joulebook("run", "--quiet", "--", "sleep", "2").returncode == 0
        assert exposed.measurements()
        log.seek(0)
        assert "cannot listen on" in log.read()
