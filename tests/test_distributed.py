"""One, two and four processes with gloo: the same loss, the same gradient, the same statistics."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
from tiny_render import tiny_params

from phalar.params import Train
from phalar.train import distributed, loop
from phalar.train.batches import Batch
from phalar.train.dropout import SharedDropout
from phalar.train.loss import contrastive_loss

PAIRS = 8
VARIANTS = ("full", "gap")
"""`gap` normalises over the batch."""


def settings(variant: str, direction: str) -> Train:
    train = {"variant": variant, "precision": "float64", "batch_pairs": PAIRS, "devices": "cpu"}
    train["loss"] = {"direction": direction, "target_weight": 0.9}
    return tiny_params(train=train).train


def step(variant: str, direction: str, world: distributed.World) -> dict[str, torch.Tensor]:
    """Give the loss of a global batch, and all gradients and buffers after it."""
    chosen = settings(variant, direction)
    state = loop._fresh_state(chosen, world)
    model = state.model.train()
    generator = torch.Generator().manual_seed(1)
    wave = torch.randn(PAIRS, 2, 8000, generator=generator) / 10
    song = torch.tensor([0, 1, 2, 3, 0, 4, 5, 6])
    share = slice(world.rank * PAIRS // world.size, (world.rank + 1) * PAIRS // world.size)
    batch = Batch(torch.arange(PAIRS)[share], song[share], wave[share])
    score_BB, song_B = loop._scores(model, SharedDropout(model), batch, chosen, world, step=3)
    loss = contrastive_loss(score_BB, song_B, direction=direction, target_weight=0.9)
    loss.backward()
    distributed.average_gradients(model.parameters())
    found = {name: weight.grad for name, weight in model.named_parameters()}
    return {"loss": loss.detach(), **found, **dict(model.named_buffers())}


def one_of_many(rank: int, size: int, port: int, folder: str) -> None:
    """Be one process of several, and leave what it found."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with distributed.join(on_cpu=True) as world:
        found = {variant: step(variant, "both", world) for variant in VARIANTS}
    torch.save(found, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, torch.Tensor]]:
    world = distributed.World(0, 1, torch.device("cpu"))
    return {variant: step(variant, "both", world) for variant in VARIANTS}


@pytest.mark.parametrize("size", [2, 4])
def test_loss_and_gradient_do_not_depend_on_the_number_of_processes(alone, size, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = (size, port, str(tmp_path))
    torch.multiprocessing.spawn(one_of_many, arguments, nprocs=size)
    for rank in range(size):
        found = torch.load(tmp_path / f"{rank}.pt")
        for variant in VARIANTS:
            assert found[variant].keys() == alone[variant].keys()
            for name, value in alone[variant].items():
                if name.startswith("front_end"):
                    continue
                # The front end is float32 and rounds by the size of a batch.
                error = (found[variant][name] - value).double().norm()
                assert error <= 1e-5 * value.double().norm() + 1e-9, (variant, name)
