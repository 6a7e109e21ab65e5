"""Reservations by group: never more than there is, never more than a group's limit, and nobody's share twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joulebook.cgroup import Limit
from joulebook.reservations import reservations

GROUPS = ["/a", "/a/b", "/a/b/c", "/a/d", "/ab", "/e"]


@st.composite
def limited_runs(draw):
    """Runs in nested groups, each group with one limit."""
    amounts = {group: draw(st.floats(0.1, 20)) for group in GROUPS}
    chosen = draw(st.lists(st.sampled_from([None, *GROUPS]), max_size=8))
    return {f"r{i}": None if group is None else Limit(group, amounts[group]) for i, group in enumerate(chosen)}


@given(limited_runs(), st.floats(0.5, 16))
def test_no_group_is_promised_more_than_it_has(limits, capacity):
    found = reservations(limits, capacity)
    assert found.keys() == limits.keys()
    assert all(0 <= part <= 1 for part in found.values())
    assert sum(found.values()) <= 1 + 1e-9
    for group in {limit.group for limit in limits.values() if limit is not None}:
        amount = next(limit.amount for limit in limits.values() if limit is not None and limit.group == group)
        inside = [run for run, limit in limits.items() if limit and f"{limit.group}/".startswith(f"{group}/")]
        if amount < capacity:
            assert sum(found[run] for run in inside) * capacity <= amount * (1 + 1e-9)


@given(limited_runs(), st.floats(0.5, 16))
def test_runs_alike_get_alike(limits, capacity):
    found = reservations(limits, capacity)
    for run, limit in limits.items():
        for other, same in limits.items():
            if limit == same:
                assert found[run] == found[other]


def test_hand_worked():
    # Of 8 CPUs: two runs share a group of 4, one has 2 of its own, one has no limit and gets the 2 that are left.
    limits = {"a": Limit("/g", 4.0), "b": Limit("/g", 4.0), "c": Limit("/h", 2.0), "d": None}
    assert reservations(limits, 8.0) == {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25}
    # A group of 1 within the group of 4: the run beside it has the 3 that are left of it.
    limits = {"a": Limit("/g", 4.0), "b": Limit("/g/inner", 1.0)}
    assert reservations(limits, 8.0) == {"a": 3 / 8, "b": 1 / 8}
    # Two groups of 6 on 8 CPUs: 4 each, and nothing is left for the run without a limit.
    limits = {"a": Limit("/g", 6.0), "b": Limit("/h", 6.0), "c": None}
    assert reservations(limits, 8.0) == {"a": 0.5, "b": 0.5, "c": 0.0}
    assert reservations({"a": Limit("/g", 8.0), "b": None}, 8.0) == {"a": 0.5, "b": 0.5}, "the whole is no limit"
    assert reservations({}, 8.0) == {}
    assert reservations({"a": Limit("/g", 2.0)}, 8.0) == pytest.approx({"a": 0.25})
