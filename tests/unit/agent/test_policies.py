"""The four policies: what is promised of each, and the page's worked example."""

from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.errors import BadInput
from joulebook.rows import Component, Measurement, Method, Policy, Share, ShareKind, Weights
from joulebook.settings import settings_from_environment
from joulebook.split import resplit, split
from joulebook_reports.cli import report

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "share-a-machine.md"

millijoules = st.integers(0, 10**12)
fractions = st.integers(0, 1000).map(lambda n: n / 1000)
uses = st.integers(0, 10**8).map(lambda n: n / 100)
components = st.sampled_from([Component.CPU, Component.GPU, Component.DRAM])
policies = st.sampled_from(Policy)


@st.composite
def claims(draw: st.DrawFn) -> list[Share]:
    """Shares of up to four runs, each in up to three phases, and everybody else's."""
    found = []
    for run in range(draw(st.integers(0, 4))):
        for phase in draw(st.lists(st.sampled_from(["train", "eval", ""]), min_size=1, max_size=3, unique=True)):
            weights = Weights(draw(uses), draw(uses), draw(fractions))
            found.append(Share(ShareKind.RUN, 0, Policy.RESERVED, f"run-{run}", phase, weights=weights))
    others = Weights(draw(uses), draw(uses), draw(fractions))
    return [*found, Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED, weights=others)]


def of_runs(shares: tuple[Share, ...]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for share in shares:
        if share.run_id:
            sums[share.run_id] = sums.get(share.run_id, 0) + share.millijoules
    return sums


def of_kind(shares: tuple[Share, ...], kind: ShareKind) -> int:
    return sum(share.millijoules for share in shares if share.kind is kind)


def holders(claimed: list[Share], component: Component) -> set[str]:
    """Runs for which some of the device is reserved, or that used some."""
    return {
        c.run_id
        for c in claimed
        if c.run_id
        and (
            c.weights.reserved_fraction > 0
            or (c.weights.sm_seconds if component is Component.GPU else c.weights.cpu_seconds) > 0
        )
    }


@given(millijoules, claims(), policies, components, st.none() | millijoules)
def test_shares_sum_to_the_measurement_and_none_is_negative(total, claimed, policy, component, idle) -> None:
    shares = split(total, claimed, policy, component, idle)
    assert sum(share.millijoules for share in shares) == total
    assert all(share.millijoules >= 0 for share in shares)
    assert (idle is not None) == any(share.kind is ShareKind.IDLE for share in shares)
    assert of_kind(shares, ShareKind.IDLE) <= (idle or 0)


@given(millijoules, claims(), components)
def test_equal_gives_every_run_that_holds_the_device_the_same(total, claimed, component) -> None:
    shares = split(total, claimed, Policy.EQUAL, component)
    sums, there = of_runs(shares), holders(claimed, component)
    assert {run for run, amount in sums.items() if amount} <= there
    if not there:
        assert of_kind(shares, ShareKind.UNATTRIBUTED) == total
        return
    assert of_kind(shares, ShareKind.UNATTRIBUTED) == 0
    for run in there:
        # Whole millijoules: each of a run's shares may be one off its part.
        assert abs(sums[run] - total / len(there)) < 1 + sum(claim.run_id == run for claim in claimed)


@given(millijoules, claims(), components, st.data())
def test_equal_divides_only_the_idle_part_once_it_is_known(total, claimed, component, data) -> None:
    idle = data.draw(st.integers(0, total))
    sums = of_runs(split(total, claimed, Policy.EQUAL, component, idle))
    dynamic = of_runs(split(total, claimed, Policy.UNALLOCATED, component, idle))
    there = holders(claimed, component)
    for run in there:
        own = sum(claim.run_id == run for claim in claimed)
        assert abs(sums[run] - dynamic[run] - idle / len(there)) < 1 + own


@given(millijoules, claims(), components, millijoules)
def test_unallocated_idle_is_an_idle_share(total, claimed, component, idle) -> None:
    shares = split(total, claimed, Policy.UNALLOCATED, component, idle)
    assert of_kind(shares, ShareKind.IDLE) == min(idle, total)
    use = split(total - min(idle, total), claimed, Policy.UTILISATION, component)
    assert [share.millijoules for share in shares if share.kind is not ShareKind.IDLE] == [s.millijoules for s in use]


@given(millijoules, claims(), components)
def test_unallocated_without_an_idle_part_follows_use(total, claimed, component) -> None:
    unallocated, by_use = (split(total, claimed, p, component) for p in (Policy.UNALLOCATED, Policy.UTILISATION))
    assert [share.millijoules for share in unallocated] == [share.millijoules for share in by_use]


def measured(total: int, shares: tuple[Share, ...], component: Component, idle: int | None) -> Measurement:
    kept = None if idle is None else min(idle, total)
    return Measurement(
        "m", "b", "d", component, 0, 10, 0, 10, total, "rapl", Method.COUNTER, 0.0, "", 0.0, 1.0, "agent", shares, kept
    )


@given(millijoules, claims(), components, st.none() | millijoules, st.sampled_from([*product(Policy, Policy)]))
def test_a_report_divides_again_as_the_agent_would_have_and_back(total, claimed, component, idle, pair) -> None:
    there, other = pair
    written = split(total, claimed, there, component, idle)
    again = resplit(measured(total, written, component, idle), other)
    if any(claim.weights != Weights() for claim in claimed):
        assert again == split(total, claimed, other, component, idle)
    assert sum(share.millijoules for share in again) == total
    assert resplit(measured(total, again, component, idle), there) == written


def example_rows() -> list[list[str]]:
    lines = PAGE.read_text().partition("## By hand")[2].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[2:]


@pytest.mark.parametrize("row", example_rows(), ids=lambda row: f"{row[1].strip('`')}, idle {row[0]}")
def test_the_page_s_example_is_what_comes_out(row: list[str]) -> None:
    claimed = [
        Share(ShareKind.RUN, 0, Policy.RESERVED, "A", weights=Weights(12.0, 0.0, 0.5)),
        Share(ShareKind.RUN, 0, Policy.RESERVED, "B", weights=Weights(4.0, 0.0, 0.25)),
        Share(ShareKind.UNATTRIBUTED, 0, Policy.RESERVED, weights=Weights(4.0, 0.0, 0.25)),
    ]
    idle = None if row[0] == "not calibrated" else int(row[0]) * 1000
    shares = split(800_000, claimed, Policy(row[1].strip("`")), Component.CPU, idle)
    sums = of_runs(shares)
    came_out = [sums["A"], sums["B"], of_kind(shares, ShareKind.IDLE), of_kind(shares, ShareKind.UNATTRIBUTED)]
    assert came_out == [int(cell) * 1000 for cell in row[2:]]


def test_the_page_shows_every_policy_with_and_without_an_idle_part() -> None:
    assert sorted((row[0], row[1].strip("`")) for row in example_rows()) == sorted(
        product(("300", "not calibrated"), [*Policy])
    )


@pytest.mark.parametrize("policy", [*Policy])
def test_every_policy_can_be_set_and_asked_for(policy: Policy) -> None:
    assert settings_from_environment({"JOULEBOOK_POLICY": policy}).policy is policy
    for verb in ("run", "study"):
        (option,) = [option for option in report.commands[verb].params if option.name == "policy"]
        assert policy in option.type.choices


def test_another_is_refused_with_the_names_of_all() -> None:
    with pytest.raises(BadInput) as caught:
        settings_from_environment({"JOULEBOOK_POLICY": "fair"})
    assert caught.value.remedy == "set it to one of reserved, utilisation, equal, unallocated"
