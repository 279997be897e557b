"""Scores against complex arithmetic written out, pair by pair."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from phalar.model.complex_layers import to_complex
from phalar.model.similarity import ComplexBilinear, ComplexCosine, RealBilinear, TanhBilinear

DIMENSIONS = 7
KINDS = {
    "full": lambda: ComplexBilinear(DIMENSIONS),
    "psd": lambda: ComplexBilinear(DIMENSIONS, "psd"),
    "hermitian": lambda: ComplexBilinear(DIMENSIONS, "hermitian"),
    "cosine": lambda: ComplexCosine(DIMENSIONS),
    "real": lambda: RealBilinear(DIMENSIONS),
    "tanh": lambda: TanhBilinear(DIMENSIONS),
}
BILINEAR = [name for name in KINDS if name != "cosine"]


def make(name):
    torch.manual_seed(0)
    similarity = KINDS[name]().double()
    with torch.no_grad():  # away from the identity
        for parameter in similarity.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return similarity


def embeddings(name, count, seed):
    parts = 1 if name in ("real", "tanh") else 2
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, parts, DIMENSIONS, dtype=torch.double, generator=generator)


def slow_score(name, similarity, x_RD, y_RD):
    """Score one pair one-way in NumPy, as the paper writes it."""
    arrays = {key: value.numpy() for key, value in similarity.state_dict().items()}
    x, y = (to_complex(z_RD).numpy() for z_RD in (x_RD, y_RD))
    if name == "tanh":
        x, y = (
            np.tanh(
                (v - v.mean()) / np.sqrt(v.var() + 1e-5) * arrays["norm.weight"]
                + arrays["norm.bias"]
            )
            for v in (x.real, y.real)
        )
        return x @ arrays["weight"] @ y
    if name == "real":
        x, y = (v.real / np.sqrt((v.real**2).sum() + 1e-6) for v in (x, y))
        return x @ arrays["weight"] @ y
    weight = arrays["projection.weight"]
    matrix = weight[:DIMENSIONS] + 1j * weight[DIMENSIONS:]
    if name == "cosine":
        x, y = matrix @ x, matrix @ y
        cosine = abs(np.vdot(x, y)) / np.linalg.norm(x) / np.linalg.norm(y)
        return min(np.exp(arrays["log_temperature"]), 100) * cosine
    x, y = (v / np.sqrt((abs(v) ** 2).sum() + 1e-6) for v in (x, y))
    if name == "psd":
        return np.vdot(matrix @ x, matrix @ y).real
    if name == "hermitian":
        return (np.vdot(matrix @ x, y) + np.vdot(x, matrix @ y)).real / 2
    return np.vdot(matrix @ x, y).real


@pytest.mark.parametrize("name", KINDS)
def test_matrix_equals_the_slow_version(name):
    similarity, x, y = make(name), embeddings(name, 3, 1), embeddings(name, 4, 2)
    one_way = [[slow_score(name, similarity, a, b) for b in y] for a in x]
    other_way = [[slow_score(name, similarity, b, a) for b in y] for a in x]
    found = similarity(x, y, commutative=False).detach().numpy()
    np.testing.assert_allclose(found, one_way, rtol=1e-5, atol=1e-6)
    found = similarity(x, y, commutative=True).detach().numpy()
    np.testing.assert_allclose(found, np.add(one_way, other_way) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("commutative", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_pairs_are_the_diagonal_of_the_matrix(name, commutative):
    similarity, x, y = make(name), embeddings(name, 5, 1), embeddings(name, 5, 2)
    matrix = similarity(x, y, commutative=commutative)
    torch.testing.assert_close(similarity.pairs(x, y, commutative=commutative), matrix.diagonal())
    one_with_all = similarity.pairs(x[0], y, commutative=commutative)
    torch.testing.assert_close(one_with_all, matrix[0])


@pytest.mark.parametrize("name", KINDS)
def test_the_order_of_two_clips_does_not_matter(name):
    similarity, x, y = make(name), embeddings(name, 3, 1), embeddings(name, 4, 2)
    forth, back = similarity(x, y, commutative=True), similarity(y, x, commutative=True)
    torch.testing.assert_close(forth, back.T)


def test_one_way_scores_differ_by_direction():
    similarity, x, y = make("full"), embeddings("full", 3, 1), embeddings("full", 3, 2)
    forth, back = similarity(x, y, commutative=False), similarity(y, x, commutative=False)
    assert (forth - back.T).abs().min() > 1e-3


@pytest.mark.parametrize("name", ["full", "psd", "hermitian", "cosine"])
def test_a_common_rotation_leaves_scores_as_they_are(name):
    similarity, x, y = make(name), embeddings(name, 3, 1), embeddings(name, 4, 2)
    turn = torch.tensor([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    turned = similarity(turn @ x, turn @ y, commutative=False)
    torch.testing.assert_close(turned, similarity(x, y, commutative=False))


def test_psd_scores_of_a_clip_with_itself_are_not_negative():
    x = embeddings("psd", 200, 1)
    assert (make("psd").pairs(x, x, commutative=False) >= 0).all()
    assert (make("full").pairs(x, x, commutative=False) < 0).any()


def test_the_complex_form_is_indefinite_with_each_eigenvalue_twice():
    similarity = make("full")
    weight = similarity.projection.weight.detach()
    matrix = torch.complex(weight[:DIMENSIONS], weight[DIMENSIONS:])
    expected = torch.linalg.eigvalsh((matrix + matrix.mH) / 2).repeat_interleave(2)
    found = torch.linalg.eigvalsh(similarity.query_map()[: 2 * DIMENSIONS, : 2 * DIMENSIONS])
    torch.testing.assert_close(found, expected)
    assert expected[0] < 0 < expected[-1]


@pytest.mark.parametrize("name", BILINEAR)
def test_the_query_map_is_symmetric_and_gives_the_commutative_score(name):
    similarity, x, y = make(name), embeddings(name, 3, 1), embeddings(name, 4, 2)
    query_map = similarity.query_map()
    assert query_map.shape == (1024, 1024)
    assert torch.equal(query_map, query_map.T)
    x_AE, y_PE = (similarity.normalise(z).detach() for z in (x, y))
    used = x_AE.shape[-1]
    assert not query_map[used:].any()
    scores = x_AE @ query_map[:used, :used] @ y_PE.T
    torch.testing.assert_close(scores, similarity(x, y, commutative=True).detach())


def test_the_cosine_says_why_it_has_no_query_map():
    with pytest.raises(ValueError, match="is not linear in x and y, so no matrix maps a "):
        make("cosine").query_map()


def test_starts():
    assert torch.equal(RealBilinear(5).weight, torch.eye(5))
    assert TanhBilinear(300).weight.std().item() == pytest.approx(0.05, rel=0.02)
    cosine, x = ComplexCosine(DIMENSIONS), embeddings("cosine", 3, 1).float()
    itself = cosine.pairs(x, x, commutative=False)
    torch.testing.assert_close(itself, torch.full((3,), 1 / 0.07), rtol=1e-5, atol=0)
    with torch.no_grad():
        cosine.log_temperature.fill_(9)
    torch.testing.assert_close(
        cosine.pairs(x, x, commutative=False), torch.full((3,), 100.0), rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("name", ["full", "psd", "hermitian"])
def test_complex_forms_can_start_at_the_identity(name):
    similarity = make(name)
    similarity.start_at_identity(5)
    assert torch.allclose(similarity.form(), 5 * torch.eye(2 * DIMENSIONS, dtype=torch.double))


@pytest.mark.parametrize("name", ["cosine", "real", "tanh"])
def test_others_keep_their_start(name):
    similarity, untouched = make(name), make(name)
    similarity.start_at_identity(5)
    for key, value in untouched.state_dict().items():
        assert torch.equal(similarity.state_dict()[key], value)


@pytest.mark.parametrize("name", KINDS)
def test_gradient_equals_finite_differences(name):
    similarity = make(name)
    x, y = (embeddings(name, 2, seed).requires_grad_() for seed in (1, 2))
    assert gradcheck(
        lambda x, y, *_: similarity(x, y, commutative=False), (x, y, *similarity.parameters())
    )


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_float32_under_autocast(name):
    similarity, x, y = make(name).float(), embeddings(name, 3, 1), embeddings(name, 4, 2)
    expected = similarity(x.float(), y.float(), commutative=False)
    with torch.autocast("cpu", torch.bfloat16):
        assert nn.Linear(1, 1)(torch.ones(1)).dtype == torch.bfloat16
        assert torch.equal(similarity(x.float(), y.float(), commutative=False), expected)
        assert similarity(x.bfloat16(), y.bfloat16(), commutative=True).dtype == torch.float32
