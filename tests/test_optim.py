"""Muon against a slow reference step; the shares of the optimisers; schedule and running mean."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from phalar import params
from phalar.model import VARIANTS, ModelConfig, build_model
from phalar.train.optim import (
    Average,
    Muon,
    build_optimisers,
    orthogonalise,
    rate_factor,
    set_rates,
)

CONFIG = params.load(Path(__file__).parents[1] / "params.yaml").train.optimiser


def reference_step(weight, gradient, momentum, *, rate, beta, decay, steps):
    """Muon for one weight, in NumPy and in the order in which it is explained."""
    momentum = beta * momentum + (1 - beta) * gradient
    matrix = ((1 - beta) * gradient + beta * momentum).reshape(len(weight), -1)
    rows, columns = matrix.shape
    x = matrix / (np.sqrt((matrix**2).sum()) + 1e-7)
    if rows > columns:
        x = x.T
    for _ in range(steps):
        square = x @ x.T
        x = 3.4445 * x - 4.7750 * square @ x + 2.0315 * square @ square @ x
    if rows > columns:
        x = x.T
    scale = max(1, rows / columns) ** 0.5
    return (1 - rate * decay) * weight - rate * scale * x.reshape(weight.shape), momentum


def test_muon_equals_the_reference_for_matrices_and_kernels():
    rng = np.random.default_rng(1)
    shapes = [(6, 4), (6, 4), (4, 6), (8, 5, 3, 1), (8, 15), (12, 2, 1, 3), (3, 1, 1, 1)]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    momenta = [np.zeros(shape) for shape in shapes]
    weights = [nn.Parameter(torch.tensor(array)) for array in arrays]
    muon = Muon(weights, learning_rate=0.02, momentum=0.95, steps=5, weight_decay=0.1)
    for _ in range(3):
        for number, weight in enumerate(weights):
            gradient = rng.standard_normal(weight.shape)
            weight.grad = torch.tensor(gradient)
            arrays[number], momenta[number] = reference_step(
                arrays[number], gradient, momenta[number], rate=0.02, beta=0.95, decay=0.1, steps=5
            )
        muon.step()
        for weight, expected in zip(weights, arrays, strict=True):
            np.testing.assert_allclose(weight.detach().numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 40, 40), (2, 30, 90), (2, 90, 30)])
def test_orthogonalised_singular_values_lie_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonalise(matrices, steps=5))
    # The quintic's fixed band, for all but the few smallest of a random square matrix.
    assert values.max() < 1.25
    assert values.quantile(0.1) > 0.6


def test_muon_moves_only_what_has_a_gradient_and_refuses_vectors():
    still, moved = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    moved.grad = torch.eye(2)
    Muon([still, moved], learning_rate=0.1, momentum=0.9, steps=5, weight_decay=0.0).step()
    assert torch.equal(still, torch.ones(2, 2))
    assert not torch.equal(moved, torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"a weight of shape \(3,\) is no matrix"):
        Muon(
            [nn.Parameter(torch.ones(3))],
            learning_rate=0.1,
            momentum=0.9,
            steps=5,
            weight_decay=0.0,
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_both_optimisers_share_all_parameters(variant):
    if variant == "cocola":
        pytest.importorskip("torchvision", reason="the baseline's backbone is an extra")
    model = build_model(ModelConfig(variant), generator=torch.Generator().manual_seed(1))
    muon, adam = (
        [p for group in optimiser.param_groups for p in group["params"]]
        for optimiser in build_optimisers(model, model.similarity, CONFIG)
    )
    shared = [id(p) for p in muon + adam]
    assert sorted(shared) == sorted(id(p) for p in model.parameters())
    assert all(p.ndim >= 2 for p in muon)
    assert {id(p) for p in model.similarity.parameters()} <= {id(p) for p in adam}
    by_id = {id(p): p for p in model.similarity.parameters()}
    assert all(p.ndim < 2 for p in adam if id(p) not in by_id)


def configured(**changes) -> params.Optimiser:
    return params.Optimiser.model_validate({**CONFIG.model_dump(), **changes})


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_rates_warm_up_stay_and_decay(shape):
    config = configured(warmup_steps=9, decay={"shape": shape, "fraction": 0.5})
    factors = [rate_factor(step, steps=100, config=config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:51] == [1.0] * 42
    assert factors[75] == pytest.approx(0.5)
    assert all(a > b > 0 for a, b in pairwise(factors[50:]))
    assert factors[99] < 0.03


def test_the_papers_schedule_is_none():
    config = configured(warmup_steps=0, decay={"shape": "linear", "fraction": 0.0})
    assert {rate_factor(step, steps=10, config=config) for step in range(10)} == {1.0}


def test_set_rates_scales_each_from_its_own():
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1))
    optimisers = build_optimisers(model, model.similarity, CONFIG)
    set_rates(optimisers, 0.5)
    set_rates(optimisers, 0.25)
    assert [o.param_groups[0]["lr"] for o in optimisers] == pytest.approx(
        [CONFIG.muon.learning_rate / 4, CONFIG.adam.learning_rate / 4]
    )


def test_average_starts_warm_and_steps_aside():
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, 0.9)
    values, expected = [1.0, 2.0, 4.0, 8.0], model.weight.item()
    for step, value in enumerate(values):
        nn.init.constant_(model.weight, value)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 8.0


def test_no_average_is_the_weights_themselves():
    model = nn.Linear(1, 1)
    average = Average(model, 0.0)
    nn.init.constant_(model.weight, 3.0)
    average.update(0)
    with average.applied():
        assert model.weight.item() == 3.0
