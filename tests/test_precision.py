"""A step in bfloat16: what stays float32, and how far its gradient is from float32's."""

from __future__ import annotations

import pytest
import torch
from tiny_render import tiny_params

from phalar.model.frontend import ConstantQDecibels
from phalar.train import loop
from phalar.train.batches import Batch
from phalar.train.distributed import World
from phalar.train.dropout import SharedDropout
from phalar.train.loss import contrastive_loss

PAIRS = 6
ON_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=ON_GPU)]


def step(precision: str, device: str) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Give scores, loss and gradients of a first step, the branches' scales not zero."""
    settings = tiny_params(train={"precision": precision, "batch_pairs": PAIRS}).train
    world = World(0, 1, torch.device(device))
    state = loop._fresh_state(settings, world)
    model = state.model.train()
    model.encoder.compiled = False
    generator = torch.Generator().manual_seed(1)
    for name, weight in model.named_parameters():
        if name.endswith("scale"):
            torch.nn.init.constant_(weight, 0.3)
    wave = torch.randn(PAIRS, 2, 16_000, generator=generator).to(device) / 10
    batch = Batch(torch.arange(PAIRS), torch.arange(PAIRS).to(device), wave)
    mixed = loop._is_mixed(settings, world)
    assert mixed == (precision == "bfloat16")
    with torch.autocast(device, torch.bfloat16, enabled=mixed):
        score_BB, song_B = loop._scores(model, SharedDropout(model), batch, settings, world, step=0)
        loss = contrastive_loss(score_BB, song_B, direction="both", target_weight=0.9)
    loss.backward()
    return score_BB, loss, {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize("device", DEVICES)
def test_scores_loss_and_gradients_are_float32_and_close(device, monkeypatch):
    heard = []
    forward = ConstantQDecibels.forward

    def listen(self, wave_BN):
        heard.append(forward(self, wave_BN))
        return heard[-1]

    monkeypatch.setattr(ConstantQDecibels, "forward", listen)
    _, true_loss, true = step("float32", device)
    score_BB, loss, found = step("bfloat16", device)
    # The same augmented sound, and the same transform of it to the bit.
    assert heard[1].dtype == torch.float32
    assert torch.equal(heard[0], heard[1])
    assert score_BB.dtype == loss.dtype == torch.float32
    assert loss.item() == pytest.approx(true_loss.item(), rel=0.02)
    assert all(gradient.dtype == torch.float32 for gradient in found.values())
    both = [torch.cat([g.flatten() for g in gradients.values()]) for gradients in (true, found)]
    error = float((both[1] - both[0]).norm() / both[0].norm())
    # Not the same arithmetic, but the same direction: 8 bits of mantissa through 30 convolutions.
    assert 1e-5 < error < 0.1
    assert torch.cosine_similarity(*both, dim=0) > 0.995
