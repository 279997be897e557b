"""A training step of the backbone: plain modules, with and without recomputation, and the kernel.

    python benchmarks/backbone.py [--rounds 5] [--clips 8]

All sides in one process with the same settings, taking turns, so that a busy machine
slows all of them; medians. The authors' code recomputes activations.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from phalar.model import fused
from phalar.model.encoder import Encoder

# Read when a process starts: glibc takes blocks of any size from the heap and keeps them, and
# OpenMP's threads sleep while they wait, without which two of them crawl on a busy machine.
ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**33),
    "MALLOC_TRIM_THRESHOLD_": str(2**34),
    "OMP_WAIT_POLICY": "passive",
}
SHAPES = {"24 pairs of 2.5 s": (48, 251), "16 pairs of 5 s": (32, 501)}


def recomputing(encoder: Encoder, feature_BCFT: Tensor) -> Tensor:
    """Run the modules and keep nothing but the inputs of the branches."""
    x_BCFT = encoder.lift(feature_BCFT)
    for block in encoder.blocks:
        for branch in (block.frequency, block.time, block.point):
            x_BCFT = checkpoint(branch, x_BCFT, use_reentrant=False)
        x_BCFT = block.shrink(x_BCFT)
    return x_BCFT


def modules(encoder: Encoder, feature_BCFT: Tensor) -> Tensor:
    encoder.compiled = False
    return encoder(feature_BCFT)


def kernel(encoder: Encoder, feature_BCFT: Tensor) -> Tensor:
    encoder.compiled = True
    return encoder(feature_BCFT)


SIDES: dict[str, Callable[[Encoder, Tensor], Tensor]] = {
    "modules, recomputing": recomputing,
    "modules": modules,
    "kernel": kernel,
}


def gradient(encoder: Encoder, side: str, feature_BCFT: Tensor) -> Tensor:
    """Make a training step without the optimiser, and return all gradients as one vector."""
    torch.manual_seed(0)
    encoder.zero_grad()
    SIDES[side](encoder, feature_BCFT).square().mean().backward()
    return torch.cat([weight.grad.flatten() for weight in encoder.parameters()])


def embed(encoder: Encoder, side: str, feature_BCFT: Tensor) -> Tensor:
    with torch.inference_mode():
        return SIDES[side](encoder, feature_BCFT)


def medians(
    run: Callable[[Encoder, str, Tensor], Tensor],
    encoder: Encoder,
    feature_BCFT: Tensor,
    *,
    rounds: int,
    clock: Callable[[], float],
) -> dict[str, float]:
    """Give each side's seconds a clip, the first round left out."""
    times_s: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(rounds + 1):
        for side in SIDES:
            start_s = clock()
            run(encoder, side, feature_BCFT)
            times_s[side].append((clock() - start_s) / len(feature_BCFT))
    return {side: statistics.median(times[1:]) for side, times in times_s.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=None, help="instead of full batches")
    arguments = parser.parse_args()
    if not os.environ.items() >= ENVIRONMENT.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ENVIRONMENT)
    if fused.kernel() is None:
        sys.exit("no kernel on this machine, nothing to compare")

    torch.manual_seed(0)
    encoder = Encoder(dropout=0.1)
    for name, weight in encoder.named_parameters():
        if name.endswith("scale"):  # zero at first: the branches would not count in the gradient
            torch.nn.init.normal_(weight)

    print("| batch | measure | " + " | ".join(SIDES) + " | ratio to the first |")
    print("|---|---|" + "---|" * (len(SIDES) + 1))
    for batch, (clips, frames) in SHAPES.items():
        feature_BCFT = torch.randn(arguments.clips or clips, 1, 96, frames)
        for what, run, threads, clock in (
            ("training, CPU ms a clip, 1 thread", gradient, 1, time.process_time),
            ("training, wall ms a clip, 2 threads", gradient, 2, time.perf_counter),
            ("embedding, CPU ms a clip, 1 thread", embed, 1, time.process_time),
        ):
            torch.set_num_threads(threads)
            encoder.train(run is gradient)
            found = medians(run, encoder, feature_BCFT, rounds=arguments.rounds, clock=clock)
            first, *_, last = found.values()
            cells = " | ".join(f"{1000 * seconds:.1f}" for seconds in found.values())
            print(f"| {batch} | {what} | {cells} | {first / last:.1f} |", flush=True)
        encoder.train()
        true, ours = (gradient(encoder, side, feature_BCFT) for side in ("modules", "kernel"))
        error = float((ours - true).norm() / true.norm())
        print(f"| {batch} | relative error of the gradient | | 0 | {error:.1e} | |", flush=True)


if __name__ == "__main__":
    main()
