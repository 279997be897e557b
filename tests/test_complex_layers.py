"""Complex layers against complex arithmetic, finite differences, and a rotation of all phases."""

import pytest
import torch
from torch.autograd import gradcheck

from phalar.model.complex_layers import (
    ComplexDropout,
    ComplexLinear,
    ComplexRMSNorm,
    ModReLU,
    to_complex,
    to_parts,
)

LAYERS = {
    "linear": lambda: ComplexLinear(6, 4),
    "norm": lambda: ComplexRMSNorm(6),
    "activation": lambda: ModReLU(6),
}


def numbers(*shape, seed=0, dtype=torch.complex128):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=LAYERS)
def layer(request):
    torch.manual_seed(0)
    layer = LAYERS[request.param]().double()
    with torch.no_grad():  # nothing at the neutral value it starts with
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def test_parts_and_complex_numbers_are_each_others_inverse():
    z = numbers(3, 5)
    assert to_parts(z).shape == (3, 2, 5)
    assert torch.equal(to_complex(to_parts(z)), z)
    assert torch.equal(to_complex(to_parts(z)[..., :1, :]), z.real + 0j)


def test_linear_is_a_complex_matrix_product():
    torch.manual_seed(0)
    layer = ComplexLinear(6, 4).double()
    matrix = torch.complex(layer.weight[:4], layer.weight[4:])
    z = numbers(3, 6)
    torch.testing.assert_close(to_complex(layer(to_parts(z))), z @ matrix.T)


def test_linear_starts_kaiming_uniform_over_root_two():
    torch.manual_seed(0)
    weight = ComplexLinear(400, 300).weight
    bound = 400**-0.5 / 2**0.5
    assert weight.shape == (600, 400)
    assert 0.99 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)


def test_norm_gives_unit_mean_square_times_gain():
    layer = ComplexRMSNorm(6).double()
    z = numbers(3, 6) * 50
    power = to_complex(layer(to_parts(z))).abs().square().mean(-1)
    torch.testing.assert_close(power, torch.ones(3).double(), rtol=1e-8, atol=0)


def test_activation_keeps_angles_and_shifts_magnitudes():
    layer = ModReLU(4).double()
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([-0.5, 0.5, -3.0, 0.0]))
    z = torch.polar(torch.tensor([1.0, 1.0, 1.0, 1.0]).double(), torch.arange(4.0).double())
    out = to_complex(layer(to_parts(z)[None]))[0]
    expected = torch.tensor([0.5, 1.5, 0.0, 1.0]).double()
    torch.testing.assert_close(out.abs(), expected, atol=2e-6, rtol=0)
    torch.testing.assert_close(out[[0, 1, 3]].angle(), z[[0, 1, 3]].angle())


def test_zero_has_a_finite_gradient(layer):
    z = torch.zeros(2, 2, 6, dtype=torch.double, requires_grad=True)
    layer(z).sum().backward()
    assert z.grad.isfinite().all()


def test_gradient_equals_finite_differences(layer):
    z = to_parts(numbers(3, 6)).requires_grad_()
    assert gradcheck(lambda z, *_: layer(z), (z, *layer.parameters()))


def test_a_common_rotation_passes_through(layer):
    z, turn = numbers(3, 6), torch.exp(torch.tensor(0.7j))
    expected = turn * to_complex(layer(to_parts(z)))
    torch.testing.assert_close(to_complex(layer(to_parts(turn * z))), expected)


def test_dropout_takes_whole_numbers_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = ComplexDropout(0.25)
    z_BRD = torch.ones(200, 2, 300)
    out_BRD = layer(z_BRD)
    assert torch.equal(out_BRD[:, 0], out_BRD[:, 1])
    assert out_BRD.unique().tolist() == [0, pytest.approx(4 / 3)]
    assert out_BRD.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(layer.eval()(z_BRD), z_BRD)
