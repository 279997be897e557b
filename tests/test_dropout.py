"""Dropout of a whole batch: what a model drops by itself, however the batch is shared."""

from __future__ import annotations

import copy

import pytest
import torch

from phalar.model import ModelConfig, Phalar, build_model
from phalar.train.dropout import SharedDropout

CLIPS = 6


@pytest.fixture(params=["full", "gap", "magnitude"])
def model(request) -> Phalar:
    """A model whose branches count: their scales start at zero."""
    generator = torch.Generator().manual_seed(1)
    found = build_model(ModelConfig(request.param, dropout=0.3), generator=generator)
    for name, weight in found.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.normal_(weight, generator=generator)
    return found.train()


FEATURE = torch.rand(CLIPS, 96, 64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("compiled", [True, False])
def test_in_one_piece_it_drops_what_the_model_would_to_the_bit(model, compiled):
    model.encoder.compiled = compiled
    plain = copy.deepcopy(model)
    torch.manual_seed(3)
    expected = plain.encode(FEATURE)
    dropout = SharedDropout(model)
    torch.manual_seed(3)
    dropout.draw(CLIPS, FEATURE)
    dropout.hold(slice(CLIPS))
    assert torch.equal(model.encode(FEATURE), expected)
    assert not torch.equal(plain.encode(FEATURE), expected)
    model.load_state_dict(plain.state_dict())
    assert torch.equal(model.eval().encode(FEATURE), plain.eval().encode(FEATURE))


def test_pieces_drop_what_the_whole_drops():
    generator = torch.Generator().manual_seed(1)
    model = build_model(ModelConfig("full", dropout=0.3), generator=generator).double().train()
    dropout = SharedDropout(model)
    feature = FEATURE.double()
    dropout.draw(CLIPS, feature)
    found = []
    for clips in (slice(0, 6), slice(0, 1), slice(1, 4), slice(4, 6)):
        dropout.hold(clips)
        found.append(model.encode(feature[clips]))
    torch.testing.assert_close(torch.cat(found[1:]), found[0])


def test_the_baseline_keeps_its_own():
    pytest.importorskip("torchvision", reason="the baseline's backbone is an extra")
    model = build_model(ModelConfig("cocola"), generator=torch.Generator().manual_seed(1))
    assert SharedDropout(model).layers == []
    assert isinstance(model.head.dropout, torch.nn.Dropout)
