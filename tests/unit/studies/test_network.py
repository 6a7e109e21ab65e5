"""The reference network and what it costs, counted by hand."""

import pytest

torch = pytest.importorskip("torch")
from joulebook_studies.network import inference_flops, parameters_of, reference_network, training_flops  # noqa: E402

pytestmark = pytest.mark.study


def test_parameters():
    # conv 1x12x9+12, 12x24x9+24, 24x48x9+48; norms 2x(12+24+48); fully connected 432x96+96, 96x10+10
    assert parameters_of(reference_network(0)) == 120 + 2616 + 10416 + 168 + 41568 + 970 == 55858


def test_forward_flops_per_image():
    # two per multiply-add: 14x14x12x9, 14x14x24x12x9, 7x7x48x24x9, 432x96, 96x10
    by_hand = 2 * (196 * 12 * 9 + 196 * 24 * 108 + 49 * 48 * 216 + 432 * 96 + 960)
    assert inference_flops([reference_network(0)]) == by_hand
    assert inference_flops([reference_network(0), reference_network(1)]) == 2 * by_hand


def test_training_flops_are_three_passes_less_one():
    # backward repeats each layer twice, except that nothing flows back into the images
    forward = inference_flops([reference_network(0)])
    assert training_flops(reference_network(0)) == 3 * forward - 2 * 196 * 12 * 9


def test_counting_leaves_the_network_as_it_was():
    network = reference_network(0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    training_flops(network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_seeds_decide_the_weights():
    a, b, c = (next(reference_network(seed).parameters()) for seed in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
