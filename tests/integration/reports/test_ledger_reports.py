"""Reports through the program, on a real ledger filled through a real outbox."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest
from click.testing import CliRunner
from joulebook.cli import cli
from joulebook.errors import BadInput, JoulebookError, LedgerError
from joulebook.home import Home
from joulebook.outbox import Outbox
from joulebook.rows import Component, Labels, Measurement, Method, Policy, Run, Share, ShareKind, Status, Weights
from joulebook.split import split
from joulebook_collector.factors import NewFactor, add_factors
from joulebook_collector.ledger import Ledger
from joulebook_collector.priced import SeriesKey
from joulebook_collector.sites import add_site, assign
from joulebook_collector.testing import a_measurement, a_run
from joulebook_reports.example import START_US, example_run, example_study
from joulebook_reports.hook import priced_summary

SERIES = SeriesKey("XX")
ONE_SHARE = "rowid = (select min(s.rowid) from share_row as s join owner using (owner) where kind = 'run')"
ONE_ROW = "seq = 1 and txn = (select min(txn) from share)"
YEAR_US = (1_767_225_600_000_000, 1_798_761_600_000_000)  # 2026


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose outbox holds the example study."""
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    home = Home(tmp_path).make()
    outbox = Outbox(home.outboxes / "server-1.sqlite", writer=True)
    for facts in example_study().runs:
        outbox.write(final=[*facts.measurements, *facts.marks, facts.run])
    outbox.close()
    return home


def report(*words: str) -> str:
    done = CliRunner().invoke(cli, ["report", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def price(home: Home, g_per_kwh: float) -> int:
    """Place the machine at an example site, or correct its intensity. Returns the ledger's time after it."""
    with Ledger.open(home.ledger) as ledger:
        add_factors(
            ledger, [NewFactor(SERIES, *YEAR_US, g_per_kwh, "test table", 0.05, annual=True)], f"test {g_per_kwh}"
        )
        if not ledger.query("select 1 from site where site_id = 'here'"):
            add_site(ledger, "here", pue=1.2, pue_source="nameplate", u_pue=0.05, zone="XX", note="example")
            assign(ledger, "server-1", "here")
        return ledger.latest_known_us()


def test_unpriced_run_says_why_and_what_to_type(home: Home) -> None:
    doc = json.loads(report("run", "r-baseline-0", "--json"))
    assert doc["emissions_g"] is None
    assert doc["facility_energy_kwh"] is None
    assert "has no PUE" in doc["missing"]
    assert "joulebook site assign server-1 NAME" in doc["missing"]


def test_priced_run_multiplies_out(home: Home) -> None:
    report("run")
    price(home, 300.0)
    doc = json.loads(report("run", "r-baseline-0", "--json"))
    kwh = doc["energy_total_joules"] / 3.6e6 * 1.2
    assert doc["facility_energy_kwh"] == pytest.approx(kwh)
    assert doc["emissions_g"] == pytest.approx(kwh * 300.0)
    assert doc["pricing"][0]["factor_source"] == "test table"
    assert doc["book"]["measurements"] == sum(len(f.measurements) for f in example_study().runs)


def test_the_same_ledger_gives_the_same_bytes(home: Home) -> None:
    first = [
        report("run", "--json"),
        report("study", "example", "--json"),
        report("study", "example", "--format", "html"),
    ]
    again = [
        report("run", "--json"),
        report("study", "example", "--json"),
        report("study", "example", "--format", "html"),
    ]
    assert first == again


def test_a_corrected_factor_changes_the_later_report_only_and_is_named(home: Home) -> None:
    report("run")
    known_us = price(home, 300.0)
    as_of = json.loads(report("run", "r-baseline-0", "--json"))["as_of"]
    before = report("run", "r-baseline-0", "--json", "--as-of", as_of)
    assert price(home, 330.0) > known_us
    assert report("run", "r-baseline-0", "--json", "--as-of", as_of) == before
    after = json.loads(report("run", "r-baseline-0", "--json"))
    change = after["restatements"][0]
    assert after["emissions_g"] == pytest.approx(json.loads(before)["emissions_g"] * 1.1)
    assert change["delta_g"] == pytest.approx(after["emissions_g"] / 11.0)
    assert "300 g/kWh" in change["reason"]
    assert "330 g/kWh" in change["reason"]
    assert "330 g/kWh" in report("run", "r-baseline-0")


@pytest.mark.parametrize(
    "alter",
    [
        f"update share_row set millijoules = millijoules + 1 where {ONE_SHARE}",
        "update measurement_row set energy_millijoules = energy_millijoules + 1 where rowid = 0",
        f"update share_row set millijoules = millijoules + case when ordinal = 0 then 1 else -1 end where {ONE_ROW}",
    ],
)
@pytest.mark.parametrize("words", [("run", "r-baseline-0"), ("study", "example")])
def test_an_altered_book_is_refused(home: Home, alter: str, words: tuple[str, ...]) -> None:
    report("run")
    with duckdb.connect(str(home.ledger)) as db:
        db.execute(alter)
    with pytest.raises(LedgerError):
        report(*words)


def test_study_compares_and_leaves_out(home: Home) -> None:
    doc = json.loads(report("study", "example", "--json"))
    assert [(arm["arm"], arm["n"]) for arm in doc["arms"]] == [("baseline", 3), ("int8", 3), ("snapshot", 3)]
    assert doc["left_out"] == [{"run_id": "r-baseline-9", "arm": "baseline", "reason": "failed: exit code 1"}]
    assert doc["policy"] == "reserved"
    assert "int8: saves 10.5 %" in report("study", "example")


@pytest.mark.parametrize(
    ("modelled", "policy", "joules"), [(("dram",), "reserved", 24_000.0), (("dram", "gpu"), "utilisation", 0.0)]
)
def test_one_measured_joule_keeps_a_study_on_reservation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, modelled: tuple[str, ...], policy: str, joules: float
) -> None:
    # A GPU of 200 W, reserved whole for 120 s and never used: 24,000 J by reservation, none by use.
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    home = Home(tmp_path).make()
    outbox = Outbox(home.outboxes / "m.sqlite", writer=True)
    at_us, ns = YEAR_US[0], 120 * 10**9
    run = Run("r", "m", "b", Status.OK, at_us, 0, Labels(study="s"), at_us + ns // 1000, ns)
    stalled, used = Weights(0.0, 0.0, 1.0), Weights(60.0, 0.0, 1.0)
    rows = []
    for name, energy, weights in (("gpu", 24_000_000, stalled), ("dram", 1_000_000, used)):
        mine = Share(ShareKind.RUN, energy, Policy.RESERVED, "r", weights=weights)
        rest = Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED)
        method = Method.MODELLED if name in modelled else Method.COUNTER
        rows.append(
            Measurement(
                "m",
                "b",
                name,
                Component(name),
                at_us,
                at_us + ns // 1000,
                0,
                ns,
                energy,
                name,
                method,
                0.03,
                name,
                0.0,
                1.0,
                "agent",
                (mine, rest),
            )
        )
    outbox.write(final=[*rows, run])
    outbox.close()
    doc = json.loads(report("study", "s", "--json"))
    assert doc["policy"] == policy
    assert doc["runs"][0]["marginal_joules"] == pytest.approx(joules + 1000.0)


def test_phases_of_nested_runs_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    home = Home(tmp_path).make()
    outbox = Outbox(home.outboxes / "m.sqlite", writer=True)
    parent = example_run("p", Labels(study="s", arm="p"))
    child = example_run("c", Labels(study="s", parent_run_id="p"), start_us=START_US + 10**9)
    heir = example_run("h", Labels(study="s", inherits=("p", "c")), start_us=START_US + 2 * 10**9)
    for facts in (parent, child, heir):
        outbox.write(final=[*facts.measurements, *facts.marks, facts.run])
    outbox.close()
    row = next(r for r in json.loads(report("study", "s", "--json"))["runs"] if r["run_id"] == "h")
    # parent, child and heir drew the same: the heir pays for itself and for two makings
    made = row["marginal_joules"] - row["phases_joules"]["eval"] - row["phases_joules"]["inference"]
    assert row["full_joules"] == pytest.approx(row["marginal_joules"] + 2 * made, abs=0.01)


def test_page_is_written_and_holds_no_script(home: Home, tmp_path: Path) -> None:
    report("study", "example", "--html", str(tmp_path / "study.html"))
    report("run", "r-int8-0", "--html", str(tmp_path / "run.html"))
    for name in ("study.html", "run.html"):
        page = (tmp_path / name).read_text()
        assert "<script" not in page
        assert "<svg" in page
        assert "Conservation PASS" in page
        assert "http://" not in page.replace("http://www.w3.org/", "").replace("http://purl.org/", "").replace(
            "http://creativecommons.org/", ""
        )


def test_two_reports_at_once_both_work(home: Home) -> None:
    command = [sys.executable, "-m", "joulebook", "report", "run", "r-baseline-0", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert json.loads(answers[0][0])["run_id"] == "r-baseline-0"


def test_hook_gives_the_object_of_the_report(home: Home) -> None:
    from_report = json.loads(report("run", "r-int8-0", "--json"))
    from_hook = json.loads(json.dumps(priced_summary("r-int8-0")))
    assert from_hook.pop("book") is None
    assert from_report.pop("book") is not None
    assert from_hook == from_report


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("run", "nothing"), "no run 'nothing' is known"),
        (("run", "r-"), "10 runs begin with 'r-'"),
        (("run", "--as-of", "2026-11-24T00:00:00"), "names no time zone"),
        (("run", "--as-of", "soon"), "is no time"),
        (("study", "other"), "no run is labelled with study 'other'"),
        (("study", "example", "--baseline", "fp64"), "no compared run is of arm 'fp64'"),
        (("study", "example", "--quality", "vibes"), "it is not known whether more vibes is better"),
        (("study", "example", "--margin", "-1"), "is not a finite number of 0 or more"),
        (("study", "example", "--margin", "inf", "--json"), "is not a finite number of 0 or more"),
    ],
)
def test_bad_requests_are_refused_in_two_lines(home: Home, words: tuple[str, ...], cause: str) -> None:
    with pytest.raises(BadInput, match=cause.replace("(", r"\(")) as refused:
        report(*words)
    assert refused.value.exit_status == 2
    assert refused.value.remedy


def test_a_page_that_cannot_be_written_is_one_line(home: Home) -> None:
    with pytest.raises(JoulebookError, match="cannot write"):
        report("run", "--html", "/proc/nowhere/run.html")


def two_nodes(home: Home) -> None:
    """One run: node-0 for 10 s, which fails, and node-1 for 7, which began 1 s later on another boot's clock."""
    for machine, start, end, status in (("node-0", 0, 10, Status.FAILED), ("node-1", 1, 8, Status.OK)):
        run = a_run("job", start, end, machine_id=machine, boot_id=machine, status=status, reason="")
        rows = [a_measurement(at, at + 1, 500, "job", machine_id=machine, boot_id=machine) for at in range(start, end)]
        boot_ns = 10**12 if machine == "node-1" else 0
        rows = [
            replace(m, device_id=f"GPU of {machine}", started_ns=m.started_ns + boot_ns, ended_ns=m.ended_ns + boot_ns)
            for m in rows
        ]
        assert run.ended_ns is not None
        run = replace(run, started_ns=run.started_ns + boot_ns, ended_ns=run.ended_ns + boot_ns)
        outbox = Outbox(home.outboxes / f"{machine}.sqlite", writer=True)
        outbox.write(final=[*rows, run])
        outbox.close()
    assert len(list(home.outboxes.glob("*.sqlite"))) == 2


def test_a_run_on_two_nodes_is_one_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    monkeypatch.setenv("JOULEBOOK_MACHINE_ID", "node-1")
    home = Home(tmp_path).make()
    two_nodes(home)
    doc = json.loads(report("run", "job", "--json"))
    assert (doc["status"], doc["machine_id"], doc["machines"]) == ("failed", "node-0", ["node-0", "node-1"])
    assert doc["coverage"] == 1.0
    assert doc["energy_total_joules"] == pytest.approx(17 * 0.5)
    assert doc["phase_seconds"] == {"train": 10.0}
    assert doc["devices"] == {"GPU of node-0": 5.0, "GPU of node-1": 3.5}
    assert "ran on 2 machines (node-0, node-1)" in doc["notes"]
    assert doc["missing"].endswith("; joulebook site assign node-0 NAME; joulebook site assign node-1 NAME")
    assert doc["conservation_statement"].startswith("PASS")


def test_a_calibrated_node_with_parts_is_summed_priced_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Over 10 s: cpu 600 mJ, 200 of it idle; beyond its parts the node drew 400 mJ. The run used all of the time and
    # reserves half: 400 + 100 of the cpu, 200 of the rest.
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    home = Home(tmp_path).make()
    run_claim = Share(ShareKind.RUN, 0, Policy.RESERVED, "r1", "train", weights=Weights(10.0, 0.0, 0.5))
    others = Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED, weights=Weights(0.0, 0.0, 0.5))
    cpu, rest = (
        split(600, [run_claim, others], Policy.RESERVED, Component.CPU, 200),
        split(400, [run_claim, others], Policy.RESERVED, Component.OTHER),
    )
    rows = [
        a_measurement(0, 10, 600, machine_id="server-1", device_id="server-1/package-0", component=Component.CPU,
            shares=cpu, idle_millijoules=200),
        a_measurement(0, 10, 400, machine_id="server-1", device_id="server-1/node/remainder",
            component=Component.OTHER, shares=rest),
    ]  # fmt: skip
    outbox = Outbox(home.outboxes / "server-1.sqlite", writer=True)
    rows = [replace(m, started_at_us=YEAR_US[0], ended_at_us=YEAR_US[0] + 10_000_000) for m in rows]
    run = a_run("r1", 0, 10, machine_id="server-1", started_at_us=YEAR_US[0], ended_at_us=YEAR_US[0] + 10_000_000)
    outbox.write(final=[*rows, run])
    outbox.close()
    report("run")
    price(home, 300.0)
    doc = json.loads(report("run", "r1", "--json"))
    assert doc["energy_joules"] == {"cpu": 0.5, "dram": None, "gpu": None, "other": 0.2}
    assert doc["emissions_g"] == pytest.approx(0.7 / 3.6e6 * 1.2 * 300.0)
    assert doc["conservation"] == {"measured": 1000, "runs": 700, "idle": 100, "unattributed": 200}
    assert doc["book"]["conservation"] == doc["conservation"]
    unallocated = json.loads(report("run", "r1", "--json", "--policy", "unallocated"))
    assert unallocated["conservation"] == {"measured": 1000, "runs": 800, "idle": 200, "unattributed": 0}
    for text in (report("run", "r1"), report("run", "r1", "--format", "html")):
        assert "rest of the node" in text
        assert "measured 1,000 mJ = runs 700 + idle 100 + unattributed 200 mJ" in text


def test_a_studys_conservation_is_that_of_its_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOULEBOOK_HOME", str(tmp_path))
    home = Home(tmp_path).make()
    claims = [
        Share(ShareKind.RUN, 0, Policy.RESERVED, "r1", "train", weights=Weights(10.0, 10.0, 0.5)),
        Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED, weights=Weights(0.0, 0.0, 0.5)),
    ]
    shares = split(600, claims, Policy.RESERVED, Component.GPU, 200)
    outbox = Outbox(home.outboxes / "m1.sqlite", writer=True)
    run = a_run("r1", 0, 10, labels=Labels(study="s", arm="baseline"))
    outbox.write(final=[a_measurement(0, 10, 600, shares=shares, idle_millijoules=200), run])
    outbox.close()
    expected = {
        "reserved": (500, 100, 0),
        "utilisation": (600, 0, 0),
        "equal": (600, 0, 0),
        "unallocated": (400, 200, 0),
    }
    for policy, (runs, idle, nobody) in expected.items():
        doc = json.loads(report("study", "s", "--json", "--policy", policy))
        assert doc["conservation"] == {"measured": 600, "runs": runs, "idle": idle, "unattributed": nobody}, policy
        assert doc["arms"][0]["marginal_joules"]["point"] == runs / 1000
        assert doc["book"]["conservation"]["runs"] == 500, "as written"
