"""Measurements of a training: gathered each step, told once an interval."""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor

from phalar.params import Train
from phalar.train.distributed import World
from phalar.train.state import Row, State

# Unix counts the largest resident set in KiB, macOS in bytes.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class Meter:
    """Gathers loss, accuracy and gradient norm on the device, and how the time was spent.

    Values stay on the device until they are told, so that a GPU is not made to wait each step.
    """

    def __init__(self, settings: Train, world: World) -> None:
        self.settings = settings
        self.world = world
        self._steps: list[Tensor] = []
        self._restart()

    def _restart(self) -> None:
        self._start = time.perf_counter()
        self._waited_s = 0.0
        self._timed_steps = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time of a `with` block as waiting for data."""
        start = time.perf_counter()
        yield
        self._waited_s += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of a `with` block out of the speed of training."""
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def add(self, *values: Tensor) -> None:
        """Take loss, accuracy and gradient norm of a step."""
        self._steps.append(torch.stack([value.detach().double() for value in values]))
        self._timed_steps += 1

    def settle(self, state: State) -> None:
        """Bring what is still on the device to `state.recent`, and check it.

        Raises
        ------
        FloatingPointError
            A loss or a gradient is not finite.
        """
        values = torch.stack(self._steps).tolist() if self._steps else []
        self._steps = []
        first = state.step - len(values) + 1
        for step, (loss, accuracy, norm) in enumerate(values, start=first):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise FloatingPointError(
                    f"train: at step {step} the loss is {loss:g} and the norm of the gradient "
                    f"{norm:g}; lower the learning rates in train.optimiser (checkpoints from "
                    f"before that step stay)"
                )
            state.recent.append([loss, accuracy, norm])

    def row(self, state: State) -> Row:
        """Sum up the steps since the last row; names carry units, as in MLflow and history.csv."""
        self.settle(state)
        count = len(state.recent)
        loss, accuracy, norm = (
            math.fsum(column) / count for column in zip(*state.recent, strict=True)
        )
        state.recent = []
        elapsed_s = time.perf_counter() - self._start
        muon, adam = (optimiser.param_groups[0]["lr"] for optimiser in state.optimisers)
        row = {
            "loss": loss,
            "accuracy_percent": 100 * accuracy,
            "muon_rate": muon,
            "adam_rate": adam,
            "gradient_norm": norm,
            "pairs_per_s": self._timed_steps * self.settings.batch_pairs / elapsed_s,
            "data_wait_percent": 100 * self._waited_s / elapsed_s,
            "memory_gib": self._memory_gib(),
        }
        self._restart()
        return row

    def line(self, row: Row, *, step: int) -> str:
        """Put the row of the steps up to `step` in one line."""
        steps, pairs = self.settings.steps, self.settings.batch_pairs
        left_s = round((steps - step) * pairs / row["pairs_per_s"])
        return (
            f"step {step}/{steps}  loss {row['loss']:.3f}  "
            f"accuracy {row['accuracy_percent']:.0f} % of {pairs}  "
            f"rates {row['muon_rate']:.4f} {row['adam_rate']:.4f}  "
            f"gradient {row['gradient_norm']:.2g}  {row['pairs_per_s']:.1f} pairs/s  "
            f"data wait {row['data_wait_percent']:.0f} %  {row['memory_gib']:.1f} GiB  "
            f"{timedelta(seconds=left_s)} left"
        )

    def _memory_gib(self) -> float:
        """Largest so far: of the GPU's memory, or of this process."""
        if self.world.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.world.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 2**30
