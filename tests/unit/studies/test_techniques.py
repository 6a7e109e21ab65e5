"""Each technique is the real one: integer kernels run, members differ, snapshots restart, checkpoints are shared."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from joulebook.errors import JoulebookError  # noqa: E402
from joulebook_studies import baseline, independent, longer, snapshot  # noqa: E402
from joulebook_studies import int8 as int8_arm  # noqa: E402
from joulebook_studies.catalogue import ENTRIES, entry_of  # noqa: E402
from joulebook_studies.data import Images  # noqa: E402
from joulebook_studies.task import Recipe, load_baseline, make_task  # noqa: E402
from joulebook_studies.train import answer, infer_for, predict  # noqa: E402

pytestmark = pytest.mark.study


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def task(tmp_path):
    """Two classes that differ in brightness, 256 images to train on: learnt within an epoch or two."""
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 2, 320)
    pixels = chance.integers(0, 90, (320, 28, 28)) + 120 * labels[:, None, None]
    x, y = pixels.astype(np.uint8), labels.astype(np.int64)
    images = Images("made", "none", (), "", x[:256], y[:256], x[256:], y[256:])
    return make_task(images, Recipe(epochs=2, cycle_epochs=1, batch=32), seed=3, members=3, checkpoints=tmp_path)


def accuracy(networks, task):
    return float((answer(predict(networks, task.test_x)).argmax(dim=1) == task.test_y).float().mean())


def operators(network, images):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        predict([network], images)
    return {event.key for event in profile.key_averages()}


def test_the_baseline_learns_and_is_kept(task):
    (network,) = baseline.build(task)
    assert accuracy([network], task) > 0.95
    (kept,) = predict([load_baseline(task)], task.test_x)
    assert torch.equal(kept, predict([network], task.test_x)[0])


def test_the_same_seed_trains_the_same_network(task):
    a, b = (predict(baseline.build(task), task.test_x)[0] for _ in range(2))
    assert torch.equal(a, b)


def test_int8_runs_integer_kernels_and_no_float_convolution(task):
    (network,) = baseline.build(task)
    (quantised,) = int8_arm.build(task)
    ran = operators(quantised, task.test_x)
    assert {"quantized::conv2d_relu", "quantized::linear_relu", "quantized::linear"} <= ran
    assert not ran & {"aten::conv2d", "aten::linear", "aten::addmm", "aten::mkldnn_convolution"}
    assert "aten::conv2d" in operators(network, task.test_x)  # the probe sees floats where there are some
    assert accuracy([quantised], task) > 0.95


def test_int8_weights_are_one_byte(task):
    baseline.build(task)
    (quantised,) = int8_arm.build(task)
    weights = [module.weight() for module in quantised.modules() if callable(getattr(module, "weight", None))]
    assert len(weights) == 5
    assert {weight.dtype for weight in weights} == {torch.qint8}


def test_int8_without_a_baseline_says_what_to_run(task):
    with pytest.raises(JoulebookError) as caught:
        int8_arm.build(task)
    assert "--arm baseline --seed 3" in caught.value.remedy


def test_independent_members_differ_and_the_first_is_the_baseline(task):
    members = predict(independent.build(task), task.test_x)
    assert len(members) == 3
    assert not torch.equal(members[0], members[1])
    assert torch.equal(members[0], predict(baseline.build(task), task.test_x)[0])


def test_snapshots_lie_on_one_trajectory(task):
    members = snapshot.build(task)
    assert len(members) == 3
    first, second = (torch.cat([p.flatten() for p in m.parameters()]) for m in members[:2])
    assert not torch.equal(first, second)
    assert accuracy(members, task) > 0.9


def test_snapshot_cycles_restart_at_the_peak(task):
    cycles = snapshot.cycles_of(task)
    assert [len(cycle) for cycle in cycles] == [8, 8, 8]  # 256 / 32 steps of one epoch
    assert [cycle[0] for cycle in cycles] == [task.recipe.peak] * 3
    assert all(cycle == sorted(cycle, reverse=True) for cycle in cycles)


def test_the_control_has_the_members_budget(task, monkeypatch):
    steps = []
    monkeypatch.setattr("joulebook_studies.train.one_cycle", lambda step, of, peak: steps.append(of) or peak)
    longer.build(task)
    assert set(steps) == {task.steps(task.recipe.epochs) * task.members}


def test_inference_repeats_whole_passes(task):
    network = baseline.build(task)
    assert infer_for(network, task.test_x, 100, 0.0) == 2 * 64
    longer_than_one = infer_for(network, task.test_x, 1, 0.2)
    assert longer_than_one > 64
    assert longer_than_one % 64 == 0


def test_the_catalogue_is_whole():
    assert [entry.name for entry in ENTRIES if entry.starts_from] == ["int8"]
    for entry in ENTRIES:
        assert entry_of(entry.name) is entry
        assert entry.phases[-1] == "inference"
        assert entry.compared_with == "baseline"
    with pytest.raises(JoulebookError, match="no arm 'int4'"):
        entry_of("int4")
