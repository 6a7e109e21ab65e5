"""Imports: all of a file or nothing, units by name, each file once."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import duckdb
import pytest
from joulebook.errors import BadInput
from joulebook.rows import Component, Method, Policy, Technique
from joulebook.split import resplit
from joulebook.summary import run_energy
from joulebook_collector.conservation import verify
from joulebook_collector.import_rows import micros, whole_millijoules
from joulebook_collector.imports import import_file, parse_techniques
from joulebook_collector.ledger import Ledger
from joulebook_collector.pricing import price, slot_energies
from joulebook_collector.sites import add_site
from joulebook_collector.testing import START_US, a_batch, a_measurement


@pytest.fixture
def ledger(tmp_path):
    with Ledger.open(tmp_path / "ledger.duckdb") as opened:
        yield opened


@pytest.fixture
def take(ledger, tmp_path):
    """Import text as a file of that kind, checking that a refused file leaves nothing."""

    def taker(kind: str, text: str, suffix: str = ".csv", **options):
        path = tmp_path / f"{kind}{suffix}"
        path.write_text(text)
        known = ledger.latest_known_us()
        try:
            return import_file(ledger, kind, path, **options)
        except BadInput:
            assert ledger.latest_known_us() == known
            raise

    return taker


SPANS = """machine,device,component,started_at,ended_at,energy_joules,method,u,run
n1,rack,node,2026-03-01T00:00:00Z,2026-03-01T01:00:00Z,3600.5,counter,0.01,r1
n1,rack,node,2026-03-01T02:00:00+01:00,2026-03-01T03:00:00+01:00,7200,counter,0.01,
"""


def test_measurements_by_hand(ledger, take):
    done = take("measurements", SPANS)
    assert (done.rows, done.accepted, done.duplicates) == (2, 2, 0)
    first, second = ledger.measurements()
    # 3600.5 J = 3,600,500 mJ; 02:00+01:00 is 01:00 UTC, right after the first hour.
    assert (first.energy_millijoules, first.component, first.method) == (3_600_500, Component.NODE, Method.COUNTER)
    assert (first.u_common, first.coverage, first.note) == (0.01, 1.0, "")
    assert second.started_at_us == first.ended_at_us == micros(datetime(2026, 3, 1, 1, tzinfo=UTC))
    assert first.shares[0].run_id == "r1"
    assert [share.kind for share in second.shares] == ["unattributed"]
    assert verify(ledger).conservation.runs == 3_600_500


def test_a_file_counts_once(ledger, take):
    take("measurements", SPANS)
    before = ledger.measurements()
    again = take("measurements", SPANS)
    assert (again.accepted, again.duplicates) == (0, 2)
    assert ledger.measurements() == before


@pytest.mark.parametrize(
    ("column", "value", "millijoules"),
    [
        ("energy_microjoules", "1500000", 1500),
        ("energy_millijoules", "1500", 1500),
        ("energy_joules", "1.5", 1500),
        ("energy_kilojoules", "0.0015", 1500),
        ("energy_wh", "1", 3_600_000),
        ("energy_kwh", "0.001", 3_600_000),
        ("energy_mwh", "0.000001", 3_600_000),
        ("power_watts", "2", 7_200_000),
    ],
)
def test_units_are_in_the_names(ledger, take, column, value, millijoules):
    # One hour: 2 W x 3600 s = 7200 J.
    take("measurements", SPANS.replace("energy_joules", column).replace("3600.5", value).replace("7200", value))
    assert ledger.measurements()[0].energy_millijoules == millijoules


def test_what_a_file_does_not_say_is_assumed_and_labelled(ledger, take):
    take("measurements", SPANS.replace(",method,u", ",note,phase").replace("counter,0.01", ","))
    (first, _) = ledger.measurements()
    assert (first.method, first.u_common) == (Method.MODELLED, 0.3)
    assert first.note == "method not stated: taken as modelled; uncertainty not stated: 30% assumed"


def test_defaults_fill_only_what_rows_leave_empty(ledger, take):
    text = SPANS.replace("counter,0.01,r1", "counter,,r1")
    take("measurements", text, defaults={"u": 0.2, "machine": "n9", "method": None})
    first, second = ledger.measurements()
    assert (first.u_common, second.u_common, first.machine_id) == (0.2, 0.01, "n1")


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("3600.5", "-1", "row 1, energy_joules"),
        ("3600.5", "nan", "row 1, energy_joules"),
        ("7200", "inf", "row 2, energy_joules"),
        ("7200", "lots", "row 2, energy_joules"),
        ("7200", "", "row 2 has no energy"),
        ("energy_joules", "energy", "column 'energy'"),
        ("energy_joules", "energy_kw", "column 'energy_kw'"),
        ("2026-03-01T01:00:00Z", "2026-02-28T23:00:00Z", "row 1.*ends at or before"),
        ("2026-03-01T01:00:00Z", "2026-03-01T01:00:00", "row 1, ended_at"),
        ("2026-03-01T01:00:00Z", "1772326800", "row 1, ended_at"),
        ("2026-03-01T02:00:00+01:00", "2026-03-01T01:30:00+01:00", "overlap"),
        ("0.01,\n", "nan,\n", "row 2, u"),
        ("counter,0.01,\n", "guessed,0.01,\n", "row 2, method"),
        ("rack,node,2026-03-01T00", "rack,toaster,2026-03-01T00", "row 1, component"),
        ("n1,rack,node,2026-03-01T02", ",rack,node,2026-03-01T02", "row 2 has no machine"),
        ("0.01,r1", "0.01,r1,extra", "row 1 has more cells"),
        ("energy_joules,method", "energy_joules,energy_joules", "twice"),
    ],
)
def test_one_bad_row_refuses_the_file(take, old, new, cause):
    assert old in SPANS
    with pytest.raises(BadInput, match=cause) as caught:
        take("measurements", SPANS.replace(old, new))
    assert caught.value.exit_status == 2
    assert caught.value.remedy


def test_energy_in_two_units_is_refused(take):
    with pytest.raises(BadInput, match="energy_joules and energy_kwh"):
        take("measurements", SPANS.replace("method,u", "method,energy_kwh").replace("counter,0.01", "counter,1"))


def test_json_lines_and_parquet_say_the_same_as_csv(ledger, take, tmp_path):
    header, *lines = SPANS.strip().splitlines()
    names = header.split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines]
    take(
        "measurements",
        "".join(json.dumps({**row, "energy_joules": float(row["energy_joules"])}) + "\n" for row in rows),
        ".jsonl",
    )
    (tmp_path / "plain.csv").write_text(SPANS)
    with duckdb.connect() as db:
        db.execute(
            f"copy (select * replace (started_at::timestamptz as started_at, ended_at::timestamptz as ended_at)"
            f" from read_csv('{tmp_path}/plain.csv', all_varchar=false)) to '{tmp_path}/measurements.parquet'"
        )
    for suffix in ("jsonl", "parquet"):
        with Ledger.open(tmp_path / f"{suffix}.duckdb") as other:
            import_file(other, "measurements", tmp_path / f"measurements.{suffix}")
            found = [(m.energy_millijoules, m.started_at_us, m.ended_at_us, m.shares) for m in other.measurements()]
        if suffix == "jsonl":
            expected = found
        assert found == expected
    assert [m[0] for m in expected] == [3_600_500, 7_200_000]


@pytest.mark.parametrize(
    ("suffix", "text", "cause"),
    [
        (".xlsx", "x", "format"),
        (".csv", "a,b\n", "no rows"),
        (".csv", '"run"x,study\n1,2\n', "line 1 of measurements.csv.*expected"),
        (".csv", 'run,study\n1,2\n"3"x,4\n', "line 3 of measurements.csv"),
        (".jsonl", "{oops\n", "line 1"),
        (".jsonl", "[1]\n", "line 1"),
        (".jsonl", '{"u": NaN}\n', "NaN"),
        (".parquet", "not parquet", "cannot read"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(take, suffix, text, cause):
    with pytest.raises(BadInput, match=cause):
        take("measurements", text, suffix)


def test_a_file_that_is_not_there_is_refused(ledger, tmp_path):
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(BadInput, match="cannot read"):
            import_file(ledger, "measurements", tmp_path / name)


def test_counters_by_hand(ledger, take):
    done = take(
        "counters",
        "machine,device,component,at,energy_microjoules,wraps_at_microjoules,most_watts\n"
        "n1,package-0,cpu,2026-03-01T00:00:00Z,9000500,10000000,100\n"
        "n1,package-0,cpu,2026-03-01T00:00:00.010Z,9500400,10000000,100\n"
        "n1,package-0,cpu,2026-03-01T00:00:00.020Z,300300,10000000,100\n",
    )
    assert (done.accepted, done.notes) == (2, ())
    # 499,900 uJ, then 10,000,000 - 9,500,400 + 300,300 = 799,900 uJ across the wrap.
    # Cumulative 499,900 and 1,299,800 uJ floor to 499 and 1299 mJ: 499, then 800.
    assert [m.energy_millijoules for m in ledger.measurements()] == [499, 800]
    assert {m.method for m in ledger.measurements()} == {Method.COUNTER}


def test_a_counter_reset_stays_a_gap_and_is_told(ledger, take):
    done = take(
        "counters",
        "machine,device,component,at,energy_joules\n"
        "n1,g,gpu,2026-03-01T00:02:00Z,9\n"
        "n1,g,gpu,2026-03-01T00:00:00Z,5\n"
        "n1,g,gpu,2026-03-01T00:01:00Z,2\n",
    )
    # In order of time: 5, 2 (a reset), 9: only 7 J of the second minute are known.
    assert [m.energy_millijoules for m in ledger.measurements()] == [7000]
    assert "reset of g" in done.notes[0]


@pytest.mark.parametrize(
    ("reads", "cause"),
    [
        (["2026-03-01T00:00:00Z,5"], "no two reads"),
        (["2026-03-01T00:00:00Z,5", "2026-03-01T00:00:00Z,6"], "same moment"),
        (["2026-03-01T00:00:00Z,-5", "2026-03-01T00:00:01Z,6"], "row 1"),
    ],
)
def test_counters_that_say_nothing_are_refused(take, reads, cause):
    text = "machine,device,component,at,energy_joules\n" + "".join(f"n1,g,gpu,{read}\n" for read in reads)
    with pytest.raises(BadInput, match=cause):
        take("counters", text)


COUNTERS = """machine,device,component,at,energy_joules
n1,g,gpu,2026-03-01T00:00:00Z,0
n1,g,gpu,2026-03-01T00:01:00Z,5
n1,g,gpu,2026-03-01T00:02:00Z,LAST
"""


@pytest.mark.parametrize(
    ("kind", "text", "cause"),
    [
        ("counters", COUNTERS.replace("LAST", "1e30"), "row 3, energy_joules: '1e30' is more than the ledger can hold"),
        # 2^63 mJ is 9.22e15 J.
        ("counters", COUNTERS.replace("LAST", "1e16"), "row 3, energy_joules: '1e16' is more than the ledger can hold"),
        ("measurements", SPANS.replace("7200", "1e16"), "row 2: 1.00e.19 mJ is more than the ledger can hold"),
        ("measurements", SPANS.replace("7200", "1e999999"), "row 2, energy_joules: '1e999999' is more than"),
        ("measurements", SPANS.replace("energy_joules", "power_watts").replace("7200", "1e18"), "row 2: 3.60e.24 mJ"),
    ],
)
def test_more_than_the_ledger_can_hold_refuses_the_file(take, kind, text, cause):
    with pytest.raises(BadInput, match=cause):
        take(kind, text)


def test_a_power_without_a_time_is_told(take):
    with pytest.raises(BadInput, match="row 2, ended_at"):
        take("measurements", SPANS.replace("energy_joules", "power_watts").replace("2026-03-01T03:00:00+01:00", "soon"))


def test_a_file_taken_with_other_options_is_told_in_words(ledger, take):
    text = SPANS.replace("counter,0.01,r1", ",0.01,r1")
    take("measurements", text)
    before = ledger.measurements()
    with pytest.raises(BadInput, match=r"measurements\.csv was imported before with other options") as caught:
        take("measurements", text, defaults={"method": "counter"})
    assert "stays as it is" in caught.value.remedy
    assert ledger.measurements() == before


RUNS = """\
run,machine,started_at,ended_at,study,arm,techniques,seed,energy_gpu_kwh,energy_cpu_joules,quality_accuracy,samples,phase,method,u
b1,n1,2026-03-01T00:00:00Z,2026-03-01T02:00:00Z,pub,,,1,1.5,20000,0.91,60000,train,counter,0.03
b1,n1,2026-03-01T02:00:00Z,2026-03-01T02:30:00Z,pub,,,1,0.5,2000,0.92,10000,inference,counter,0.03
q1,n1,2026-03-01T00:00:00Z,2026-03-01T02:00:00Z,pub,,int8(bits=8); prune,1,1.2,,0.9,,train,counter,0.03
"""


def test_runs_measured_elsewhere_are_priced_by_hand(ledger, take):
    take("runs", RUNS)
    baseline, quantised = ledger.runs(study="pub")
    assert (baseline.labels.arm_label(), baseline.labels.seed) == ("baseline", 1)
    assert quantised.labels.arm_label() == "int8(bits=8) + prune"
    # 1.5 + 0.5 kWh = 7.2 MJ of GPU and 22 kJ of CPU.
    energy = run_energy(baseline, ledger.measurements(run_ids=["b1"]))
    assert energy.component == {Component.GPU: 7_200_000_000, Component.CPU: 22_000_000}
    assert energy.phase["inference"][Component.GPU] == 1_800_000_000
    marks = ledger.marks(["b1"])
    assert [(m.phase, m.samples, m.quality) for m in marks] == [
        ("train", 60000, {"accuracy": 0.91}),
        ("inference", 10000, {"accuracy": 0.92}),
    ]
    add_site(ledger, "local", pue=1.5, pue_source="test", zone="DE")
    priced = price(ledger, slot_energies(quantised, ledger.measurements(run_ids=["q1"])))
    # 1.2 kWh x 1.5 = 1.8 kWh.
    assert sum(p.emissions_g for p in priced) == pytest.approx(1.8 * priced[0].g_per_kwh)


def test_published_joules_stay_with_their_run_under_every_policy(ledger, take):
    take("runs", RUNS)
    for measurement in ledger.measurements():
        for policy in Policy:
            assert resplit(measurement, policy)[0].millijoules == measurement.energy_millijoules


def test_a_run_that_is_there_already_is_refused(take):
    take("runs", RUNS)
    assert take("runs", RUNS).accepted == 0
    with pytest.raises(BadInput, match="in the ledger already"):
        take("runs", RUNS.replace("0.91", "0.93"))


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("b1,n1,2026-03-01T02:00", "b1,n2,2026-03-01T02:00", "machine of run b1 differs"),
        ("0.91", "nan", "row 1, quality.accuracy"),
        ("1.2,,0.9", "-1.2,,0.9", "row 3, energy_gpu_kwh"),
        ("int8(bits=8)", "int8(bits)", "row 3, techniques"),
        ("1.2,,0.9", "1e20,,0.9", "row 3, energy_gpu_kwh: '1e20' is more than the ledger can hold"),
        ("60000,train", "60000000000000000000,train", "cannot be stored: samples"),
        ("energy_gpu_kwh", "energy_tpu_kwh", "energy_tpu_kwh"),
        ("energy_gpu_kwh", "energy", "'energy'"),
        ("2026-03-01T02:30:00Z", "2026-03-01T02:00:00Z", "row 2 ends"),
    ],
)
def test_a_bad_run_refuses_the_file(take, old, new, cause):
    assert old in RUNS
    with pytest.raises(BadInput, match=cause):
        take("runs", RUNS.replace(old, new))


def test_techniques_are_read_from_words_or_json():
    assert parse_techniques("", 1) == ()
    assert parse_techniques("a; b(k=1, j=x)", 1) == (Technique("a"), Technique("b", {"k": "1", "j": "x"}))
    assert parse_techniques('["a", {"name": "b", "parameters": {"k": 1}}]', 1) == (
        Technique("a"),
        Technique("b", {"k": 1}),
    )
    with pytest.raises(BadInput):
        parse_techniques("[1]", 1)


NODE_OF_B1 = """machine,device,component,started_at,ended_at,energy_joules,run
n9,rack,node,2026-04-01T00:00:00Z,2026-04-01T01:00:00Z,1500,b1
"""
NODE_OF_N1 = """machine,device,component,started_at,ended_at,energy_joules,run
n1,rack,node,2026-03-01T02:29:00Z,2026-03-01T03:00:00Z,1500,
"""
BOTH_BY_TIME = NODE_OF_N1 + "n1,cpu0,cpu,2026-03-01T02:00:00Z,2026-03-01T02:30:00Z,1000,\n"


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [
        (RUNS, NODE_OF_B1, "run b1: the ledger has its parts'"),
        (NODE_OF_B1, RUNS, "run b1: the ledger has the node's"),
        (RUNS, NODE_OF_N1, "machine n1 at 2026-03-01T02:29:00Z: the ledger has its parts'"),
        (NODE_OF_N1, RUNS, "machine n1 at 2026-03-01T02:00:00Z: the ledger has the node's"),
        ("", RUNS.replace("gpu_kwh", "node_joules"), "machine n1 at 2026-03-01T00:00:00Z: the file has both"),
        ("", BOTH_BY_TIME, "machine n1 at 2026-03-01T02:00:00Z: the file has both"),
    ],
)
def test_a_node_beside_its_parts_is_refused(take, first, second, cause):
    # A node of 1500 J with a CPU of 1000 J in it drew 1500 J, and never the 2500 J that a sum would say.
    if first:
        take("runs" if first == RUNS else "measurements", first)
    with pytest.raises(BadInput, match=cause) as caught:
        take("runs" if second.startswith("run,") else "measurements", second)
    assert "not both" in caught.value.remedy


PART = """machine,device,component,started_at,ended_at,energy_joules,run
m1,dimm,dram,{from},{to},5,
"""


def part_at(start_us: int, seconds: int) -> str:
    times = {"from": START_US + start_us, "to": START_US + start_us + seconds * 1_000_000}
    return PART.format(**{name: datetime.fromtimestamp(at // 10**6, tz=UTC).isoformat() for name, at in times.items()})


def test_a_further_part_is_refused_where_an_agent_has_booked_what_is_left_of_the_node(ledger, take):
    # node 1500 J = cpu 1000 J + remainder 500 J: a DIMM of 5 J is in the remainder
    cpu = a_measurement(0, 10, 1_000_000, device_id="m1/cpu", component=Component.CPU)
    left = a_measurement(0, 10, 500_000, device_id="m1/node/remainder", component=Component.OTHER)
    ledger.ingest(a_batch([cpu, left]))
    with pytest.raises(BadInput, match=r"machine m1 at .*: the ledger has all that the node drew"):
        take("measurements", part_at(0, 10))
    assert take("measurements", part_at(10_000_000, 10)).accepted == 1
    node = part_at(0, 10).replace("dimm,dram", "rack,node")
    with pytest.raises(BadInput, match="the ledger has its parts', which the node's contains"):
        take("measurements", node)
    assert sum(m.energy_millijoules for m in ledger.measurements()) == 1_505_000


def test_a_node_before_and_after_its_parts_is_taken_and_a_known_file_stays_known(ledger, take):
    take("measurements", NODE_OF_N1)
    take("measurements", BOTH_BY_TIME.replace("2026-03-01T02:30", "2026-03-01T02:29"))
    assert take("measurements", NODE_OF_N1).duplicates == 1
    ledger.ingest(a_batch([replace(ledger.measurements()[-1], device_id="gpu0", component=Component.GPU)]))
    assert take("measurements", NODE_OF_N1).duplicates == 1


FACTORS = """zone,started_at,ended_at,g_per_kwh,source
DE,2026-03-01T00:00:00Z,2026-03-01T01:00:00Z,250,ENTSO-E
DE,2026-03-01T01:00:00Z,2026-03-01T02:00:00Z,260,ENTSO-E
"""


def test_factors_from_a_file_once(ledger, take):
    assert take("factors", FACTORS).accepted == 2
    assert take("factors", FACTORS).accepted == 0
    assert [f.g_per_kwh for f in ledger.factors(zone="DE") if not f.annual] == [250.0, 260.0]


def test_intensity_units_are_in_the_names(ledger, take):
    take("factors", FACTORS.replace("g_per_kwh", "kg_per_kwh").replace("250", "0.25").replace("260", "0.26"))
    assert [f.g_per_kwh for f in ledger.factors(zone="DE") if not f.annual] == [250.0, 260.0]


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("260", "0.26", "row 2.*kg per kWh"),
        ("DE,2026-03-01T01", "Germany,2026-03-01T01", "row 2.*no zone"),
        ("2026-03-01T02:00:00Z", "", "row 2.*period"),
        ("2026-03-01T01:00:00Z,2026", "2026-03-01T00:30:00Z,2026", "overlap"),
        ("g_per_kwh", "g_per_j", "g_per_j"),
        (",ENTSO-E\nDE", ",\nDE", "row 1 has no source"),
    ],
)
def test_a_bad_factor_refuses_the_file(take, old, new, cause):
    assert old in FACTORS
    with pytest.raises(BadInput, match=cause):
        take("factors", FACTORS.replace(old, new))


def test_rounding_is_exact_and_half_to_even():
    assert [whole_millijoules(Decimal(x)) for x in ("0.5", "1.5", "2.4999", "12345678901234567.6")] == [
        0,
        2,
        2,
        12345678901234568,
    ]


def test_micros_are_exact():
    assert micros(datetime(2026, 3, 1, 0, 0, 0, 1, tzinfo=UTC)) == 1_772_323_200_000_001
