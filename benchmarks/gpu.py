"""Pairs a second of a training on a GPU, from the shards to the next weights.

    python benchmarks/gpu.py --data data [--pairs 256] [--steps 30] [--workers 4]

The training loop itself, clips of 5 s in bfloat16, every step with reading, augmentation, loss,
gradients and optimisers; wall time after a few steps of warming up. The authors' setting beside it:
nnAudio's transform, plain modules, activations recomputed, on the same batches and in the same
loop, so that neither side has another way of reading. What each waits for data is what the loop
logs. `--device cpu --pairs 4 --steps 1` only tries that it runs: a CPU says nothing of a GPU.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

import torch
from backbone import recomputing
from embedding import PlainFrontEnd

from phalar import params
from phalar.params import Paths, Train
from phalar.train import loop
from phalar.train.distributed import World
from phalar.train.state import Row

WARM_UP = 5
SIDES = ("authors' setting", "plain torch", "torch.compile")


def measure(
    side: str, settings: Train, paths: Paths, world: World, steps: int
) -> tuple[Row, float]:
    """Train some steps; give what the loop measures of them, and seconds a step."""
    compiled = side == "torch.compile"
    settings = settings.model_copy(update={"compile": compiled})
    state = loop._fresh_state(settings, world)
    training = loop._set_up(settings, paths, state, world)
    if side == "authors' setting":
        encoder = state.model.encoder
        state.model.front_end = PlainFrontEnd().to(world.device)
        encoder.forward = functools.partial(recomputing, encoder)
    start_s = 0.0
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            training.meter.row(state)  # waits for the device, and begins anew
            start_s = time.perf_counter()
        with training.meter.waiting():
            batch = next(training.batches)
        loop._learn(training, batch.to(world.device))
    row = training.meter.row(state)
    return row, (time.perf_counter() - start_s) / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--recompute", type=int, help="train.recompute_clips, where memory is short"
    )
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device here: nothing was measured (--device cpu only tries the code)")
    device = torch.device(asked.device)
    world = World(0, 1, device)
    settings = params.load(asked.params).train.model_copy(
        update={
            "batch_pairs": asked.pairs,
            "precision": "bfloat16",
            "recompute_clips": asked.recompute,
            "steps": 10_000,
            "workers": asked.workers,
        }
    )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
    print(f"{asked.pairs} pairs of {settings.crop_s[0]:g} s on {name}, bfloat16\n")
    print("| side | ms a step | pairs/s | times | data wait, % | memory, GiB |")
    print("|---|---|---|---|---|---|")
    first = None
    for side in SIDES:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        row, step_s = measure(side, settings, Paths(asked.data), world, asked.steps)
        first = first or row["pairs_per_s"]
        print(
            f"| {side} | {1000 * step_s:.0f} | {row['pairs_per_s']:.1f} "
            f"| {row['pairs_per_s'] / first:.1f} | {row['data_wait_percent']:.1f} "
            f"| {row['memory_gib']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
