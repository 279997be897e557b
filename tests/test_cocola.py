"""The baseline's backbone: its size, what it is shown in training, and its optional library."""

import sys

import pytest
import torch
from torch import nn

from phalar.model import ModelConfig, build_model
from phalar.model.cocola import HarmonicPercussiveEncoder
from phalar.model.frontend import RANGE_DB


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return HarmonicPercussiveEncoder()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_by_part(encoder):
    model = build_model(ModelConfig("cocola"), generator=torch.Generator().manual_seed(0))
    assert count(encoder) == count(model.encoder) == 4_007_260
    assert count(model.pooling) == count(model.front_end) == 0
    assert count(model.head) == 919_552
    assert count(model.similarity) == 263_168


def test_features_shrink_32_times_along_both_axes(encoder):
    out_BCFT = encoder.eval()(torch.zeros(2, 2, 64, 256))
    assert out_BCFT.shape == (2, encoder.channels_out, 2, 8)


@pytest.fixture
def shown(encoder):
    """Give what the layers behind the choice of channels get to see."""
    seen = []
    layers, encoder.layers = encoder.layers, nn.Identity()
    encoder.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    yield seen
    encoder.layers = layers


def test_training_shows_both_or_either_channel_a_third_each(encoder, shown):
    torch.manual_seed(0)
    encoder.train()(torch.zeros(3_000, 2, 1, 1))
    visible_BC = shown[0][:, :, 0, 0] == 0
    hidden_BC = shown[0][:, :, 0, 0] == -RANGE_DB
    assert (visible_BC | hidden_BC).all()
    both, harmonic, percussive = (
        (visible_BC == torch.tensor(channels)).all(1).float().mean().item()
        for channels in ([True, True], [True, False], [False, True])
    )
    assert both + harmonic + percussive == pytest.approx(1)
    for share in (both, harmonic, percussive):  # 3 standard deviations of 3,000 draws
        assert share == pytest.approx(1 / 3, abs=0.026)


def test_inference_shows_both_channels(encoder, shown):
    feature_BCFT = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    encoder.eval()(feature_BCFT)
    assert torch.equal(shown[0], feature_BCFT)


def test_a_missing_library_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(
        ImportError, match=r"cocola needs torchvision: pip install 'phalar\[cocola\]'"
    ):
        build_model(ModelConfig("cocola"), generator=None)


def test_other_variants_do_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    assert build_model(ModelConfig("gap"), generator=None).config.variant == "gap"
