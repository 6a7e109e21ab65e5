"""Which runs in which order, and what they are called."""

from hypothesis import given
from hypothesis import strategies as st
from joulebook_studies.catalogue import DEMO, ENTRIES, entry_of
from joulebook_studies.plan import Planned, Size, plan, run_options, seconds_left

ARMS = [entry_of(name) for name in DEMO]


@given(st.integers(1, 6), st.integers(), st.permutations(ENTRIES))
def test_every_arm_once_per_seed_and_parents_first(seeds, shuffled_by, entries):
    planned = plan(entries, seeds, shuffled_by)
    assert {(one.entry.name, one.seed) for one in planned} == {(e.name, s) for e in entries for s in range(seeds)}
    assert len(planned) == seeds * len(entries)
    assert [one.seed for one in planned] == sorted(one.seed for one in planned)
    order = [(one.entry.name, one.seed) for one in planned]
    for seed in range(seeds):
        assert order.index(("baseline", seed)) < order.index(("int8", seed))


def test_the_order_is_shuffled_within_seeds_and_the_same_every_time():
    planned = plan(ARMS, 20, shuffled_by=0)
    assert planned == plan(ARMS, 20, shuffled_by=0)
    firsts = {planned[4 * seed].entry.name for seed in range(20)}
    assert firsts == {"baseline", "independent", "snapshot"}  # int8 never comes before its baseline


def test_labels_of_a_run_that_inherits():
    options = run_options(Planned(entry_of("int8"), 2), "demo", 3, {("baseline", 2): "run-7"})
    labels = ["--study", "demo", "--arm", "int8", "--seed", "2", "--technique", "int8-static"]
    assert options == [*labels, "--inherits", "run-7"]


def test_labels_of_an_ensemble():
    options = run_options(Planned(entry_of("snapshot"), 0), "demo", 4, {})
    assert options == ["--study", "demo", "--arm", "snapshot", "--seed", "0", "--ensemble", "snapshot:members=4"]


def test_the_size_goes_to_the_worker_whole():
    assert Size(1, 2, 3, 4, 5).options() == (
        ["--train-images", "1", "--test-images", "2", "--epochs", "3", "--cycle-epochs", "4", "--members", "5"]
    )


def test_time_left():
    # b took 4 s on average and a 10 s; c is unknown and taken as their mean, 7 s: 10 + 4 + 4 + 7
    assert seconds_left({"a": [10.0], "b": [3.0, 5.0]}, ["a", "b", "b", "c"]) == 25.0
    assert seconds_left({"a": [10.0]}, []) == 0.0
    assert seconds_left({}, ["a"]) is None
