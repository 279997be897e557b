"""A whole training step on a CPU, ours against the authors' setting.

    python benchmarks/step.py [--pairs 16] [--rounds 3] [--compile]

From sound of 5 s to the gradients of all weights, float32, one thread, CPU time, medians, the same
dropout. The authors' setting: nnAudio's transform, plain modules, activations recomputed. All sides
take turns in one process with the allocator's settings of our trainings. What the optimisers take
is the same for all and stands by itself. `--compile` adds torch.compile, which needs minutes.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from backbone import ENVIRONMENT, recomputing
from embedding import PlainFrontEnd, make_models, make_music
from torch import Tensor, nn

from phalar import params
from phalar.model import Phalar, fused
from phalar.train.loss import contrastive_loss
from phalar.train.optim import build_optimisers

CONFIG = params.load(Path(__file__).parents[1] / "params.yaml").train


def modules(model: Phalar, wave_BN: Tensor) -> Tensor:
    model.encoder.compiled = False
    return model(wave_BN)


def kernel(model: Phalar, wave_BN: Tensor) -> Tensor:
    model.encoder.compiled = True
    return model(wave_BN)


def authors(front_end: nn.Module) -> Callable[[Phalar, Tensor], Tensor]:
    def run(model: Phalar, wave_BN: Tensor) -> Tensor:
        model.encoder.compiled = False
        z_BCFT = recomputing(model.encoder, front_end(wave_BN)[:, None])
        return model.head(model.pooling(z_BCFT))

    return run


def compiled(encoder: nn.Module) -> Callable[[Phalar, Tensor], Tensor]:
    fast = torch.compile(encoder)

    def run(model: Phalar, wave_BN: Tensor) -> Tensor:
        model.encoder.compiled = False
        z_BCFT = fast(model.features(wave_BN)[:, None])
        return model.head(model.pooling(z_BCFT))

    return run


def gradient(model: Phalar, embed: Callable[[Phalar, Tensor], Tensor], wave_BN: Tensor) -> Tensor:
    """Make a step up to the gradients, and return them as one vector."""
    torch.manual_seed(0)
    model.zero_grad()
    anchor_BRD, positive_BRD = embed(model, wave_BN).unflatten(0, (-1, 2)).unbind(1)
    score_BB = model.score_matrix(anchor_BRD, positive_BRD, commutative=False)
    song_B = torch.arange(len(score_BB))
    contrastive_loss(score_BB, song_B, direction="anchor", target_weight=0.9).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="with torch.compile as a side")
    arguments = parser.parse_args()
    environment = ENVIRONMENT | {"OMP_NUM_THREADS": "1"}
    if not os.environ.items() >= environment.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | environment)
    torch.set_num_threads(1)
    model = make_models("cpu")[0].train()
    wave_BN = make_music(2 * arguments.pairs)
    sides = {"authors' setting": authors(PlainFrontEnd()), "plain torch": modules}
    if arguments.compile:
        sides["torch.compile"] = compiled(model.encoder)
    if fused.kernel() is not None:
        sides["kernel"] = kernel

    times_s: dict[str, list[float]] = {side: [] for side in sides}
    found: dict[str, Tensor] = {}
    for _ in range(arguments.rounds + 1):
        for side, embed in sides.items():
            start_s = time.process_time()
            found[side] = gradient(model, embed, wave_BN)
            times_s[side].append(time.process_time() - start_s)
    true = found["plain torch"]
    first_s = statistics.median(times_s["authors' setting"][1:])
    print("| side | CPU s a step | times | relative error of the gradient |")
    print("|---|---|---|---|")
    for side, times in times_s.items():
        step_s = statistics.median(times[1:])
        error = float((found[side] - true).norm() / true.norm())
        print(f"| {side} | {step_s:.2f} | {first_s / step_s:.1f} | {error:.1e} |")
    optimisers = build_optimisers(model, model.similarity, CONFIG.optimiser)
    took_s = []
    for _ in range(arguments.rounds + 1):
        start_s = time.process_time()
        for optimiser in optimisers:
            optimiser.step()
        took_s.append(time.process_time() - start_s)
    print(f"| Muon and Adam | {statistics.median(took_s[1:]):.2f} | | |")


if __name__ == "__main__":
    main()
