"""The table of metrics and their samples: names, units, and what is absent because it is not known."""

import re
from pathlib import Path

import pytest
from joulebook.health import not_live, not_ready
from joulebook.metrics import (
    ENERGY,
    LATENESS,
    METERED,
    METRICS,
    OBSERVED,
    OUTBOX_AGE,
    RESIDUAL,
    RUNS,
    SHIPPED_ROWS,
    SHIPPING_FAILURES,
    SHIPPING_TIME,
    Kind,
    OwnUse,
    families,
    own_use,
)  # fmt: skip
from joulebook.rows import Component, Method
from joulebook.snapshot import DeviceState, MeterState, OutboxState, ShippingState, Ticks
from joulebook.totals import Totals
from snapshots import DEVICES, SECOND, busy_totals, measurement, snapshot

ROOT = Path(__file__).parents[3]


def samples_of(metric, made, *, later_ns=0):
    found = dict(families(made, OwnUse(1.5, 1 << 20), made.at_ns + later_ns, 0))
    return {sample.labels: sample.value for sample in found[metric]}


def test_names_are_the_fields_with_base_units_and_counters_end_in_total():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"joulebook_[a-z_]+", metric.name), metric
        assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric
        assert not re.search(r"milli|micro|watt|kwh|minutes|_ms_|_mj_", metric.name), metric
        assert metric.help.endswith("."), metric
        assert '"' not in metric.help, "its escape differs between the two text formats"


def test_every_metric_has_samples_from_a_whole_snapshot():
    made = snapshot()
    for metric, samples in families(made, own_use(), made.at_ns, 0):
        assert samples, metric
        for sample in samples:
            assert len(sample.labels) == len(metric.labels), metric
        assert len({sample.labels for sample in samples}) == len(samples), metric


def test_a_devices_energy_comes_with_the_time_that_was_observed_so_that_power_is_their_quotient():
    totals = Totals()
    totals.add([measurement("d", Component.CPU, 0, [("", "", 400_000)], coverage=0.5)])
    made = snapshot(totals)
    (energy,) = samples_of(ENERGY, made).values()
    (observed,) = samples_of(OBSERVED, made).values()
    assert (energy, observed) == (400.0, 2.0)
    assert (
        list(samples_of(ENERGY, made)) == list(samples_of(OBSERVED, made)) == [("node-1", "d", "cpu", "counter", "sim")]
    )


def test_a_device_that_is_not_read_any_more_is_absent_not_zero():
    now = 100 * SECOND
    states = tuple(
        DeviceState(name, Component.GPU, Method.COUNTER, "nvml", 5_000_000, read_ns, step_ns=step_ns)
        for name, read_ns, step_ns in [
            ("read now", now, 1),
            ("lost", now - 4 * SECOND, 1),
            ("slow by nature", now - 4 * SECOND, 5 * SECOND),
            ("never read", None, 1),
        ]
    )
    found = samples_of(METERED, snapshot(at_ns=now, devices=states))
    assert {labels[1]: value for labels, value in found.items()} == {"read now": 5.0, "slow by nature": 5.0}


def test_an_empty_outbox_has_no_oldest_row():
    assert samples_of(OUTBOX_AGE, snapshot(outbox=OutboxState())) == {}


def test_where_nothing_is_shipped_nothing_is_said_of_it():
    made = snapshot(shipping=None)
    assert [samples_of(m, made) for m in (SHIPPED_ROWS, SHIPPING_FAILURES, SHIPPING_TIME)] == [{}, {}, {}]
    begun = snapshot(shipping=ShippingState(failures=3))
    assert [samples_of(m, begun) for m in (SHIPPED_ROWS, SHIPPING_FAILURES, SHIPPING_TIME)] == [{(): 0}, {(): 3}, {}]


def test_lateness_is_a_cumulative_histogram():
    made = snapshot(ticks=Ticks(6, 0, (3, 2, 1, 0, 0, 0, 0), 12_000_000))
    (found,) = samples_of(LATENESS, made).values()
    assert found.buckets == (
        (0.001, 3), (0.005, 5), (0.02, 6), (0.1, 6), (0.5, 6), (2.0, 6), (float("inf"), 6)
    )  # fmt: skip
    assert (found.number, found.total) == (6, 0.012)


def test_a_broken_book_shows():
    totals = Totals()
    row = measurement("d", Component.CPU, 0, [("", "", 400_000)])
    object.__setattr__(row, "energy_millijoules", 400_001)
    totals.add([row])
    assert samples_of(RESIDUAL, snapshot(totals)) == {(): 0.001}


def test_a_thousand_runs_make_a_bounded_number_of_series():
    made = snapshot(busy_totals(runs=1000, spans=3))
    runs = samples_of(RUNS, made)
    assert len({run for run, _, _ in runs}) == 201
    assert len(runs) == 201 * 3 * 3
    assert sum(runs.values()) == pytest.approx(len(DEVICES) * 3 * 500)
    assert sum(value for (run, _, _), value in runs.items() if run == "other") == pytest.approx(800 / 1000 * 33 * 500)


def test_own_use_is_this_process_s():
    before = own_use()
    sum(range(2_000_000))
    after = own_use()
    assert after.cpu_seconds > before.cpu_seconds
    assert after.resident_bytes > 1 << 20


def test_the_page_has_a_row_for_every_metric_with_its_labels_and_none_besides():
    page = (ROOT / "docs/reference/metrics.md").read_text()
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `joulebook_")}
    assert set(rows) == {metric.name for metric in METRICS}
    for metric in METRICS:
        assert metric.kind in rows[metric.name], metric
        told = rows[metric.name].split("|")[3]
        assert tuple(re.findall(r"`(\w+)`", told)) == metric.labels, metric


class TestHealth:
    def test_a_working_agent_lives_and_is_ready(self):
        made = snapshot()
        assert not_live(made, made.at_ns + 3 * SECOND) == []
        assert not_ready(made, made.at_ns + 3 * SECOND) == []

    def test_a_loop_that_stands_still_is_not_alive(self):
        made = snapshot()
        (reason,) = not_live(made, made.at_ns + 4 * SECOND)
        assert "has not turned for 4.0 s" in reason

    def test_a_slow_loop_is_given_three_of_its_own_intervals(self):
        made = snapshot(sample_ns=4 * SECOND)
        assert not_live(made, made.at_ns + 12 * SECOND) == []
        assert not_live(made, made.at_ns + 13 * SECOND)

    def test_before_the_first_snapshot_it_has_not_begun(self):
        assert not_live(None, 0) == not_ready(None, 0) == ["the agent has not begun"]

    @pytest.mark.parametrize(
        ("values", "reason"),
        [
            ({"meters": (MeterState("rapl", up=False),)}, "no meter can be read"),
            ({"devices": ()}, "no device has been read"),
            ({"outbox": OutboxState(writable=False)}, "refuses rows"),
        ],
    )
    def test_an_agent_that_books_nothing_is_not_ready_but_lives(self, values, reason):
        made = snapshot(**values)
        (told,) = not_ready(made, made.at_ns)
        assert reason in told
        assert not_live(made, made.at_ns) == []
