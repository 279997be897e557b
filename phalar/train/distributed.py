"""Everything that knows of several processes; with one process each function does next to nothing.

Each process encodes its share of a global batch and gathers all embeddings; then all compute the
same loss over the same global batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

# A lost process that nobody reports is noticed by the others after this time.
TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class World:
    """The place of a process among all, and its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes, logs and validates."""
        return self.rank == 0


@contextmanager
def join(*, on_cpu: bool) -> Iterator[World]:
    """Meet the other processes that torchrun started, or stand alone where it did not.

    Parameters
    ----------
    on_cpu : bool
        Leave GPUs alone.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    device = torch.device("cpu")
    if not on_cpu and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size > 1:
        # Small decisions travel by gloo, so that they never wait for a GPU.
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield World(rank, size, device)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        size, rank = dist.get_world_size(), dist.get_rank()
        return gradients[0].chunk(size)[rank] * size


def gather(own: Tensor) -> Tensor:
    """Stack all processes' tensors (b, ...) to (B, ...) in rank order; gradients flow back.

    Every process computes the same loss, so it already holds the whole gradient of its own slice.
    The slice is scaled by the number of processes because `average_gradients` then divides by it.
    """
    if not dist.is_initialized():
        return own
    gathered: Tensor = _Gather.apply(own)  # type: ignore[no-untyped-call]
    return gathered


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # What every process made of the sum depends on each process's part of it.
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the clips of all processes, with gloo too.

    `nn.SyncBatchNorm`, which is faster, takes tensors on GPUs only.
    """

    def forward(self, x_BC: Tensor) -> Tensor:
        """Normalise the channels of (B, C, ...); every process holds as many clips."""
        if not self.training or not dist.is_initialized():
            return super().forward(x_BC)
        over = [axis for axis in range(x_BC.ndim) if axis != 1]
        count = x_BC.numel() // x_BC.shape[1] * dist.get_world_size()
        mean_C: Tensor = _Sum.apply(x_BC.sum(over, keepdim=True)) / count  # type: ignore[no-untyped-call]
        centred_BC = x_BC - mean_C
        square_C: Tensor = _Sum.apply(centred_BC.square().sum(over, keepdim=True))  # type: ignore[no-untyped-call]
        for name, found_C in (("running_mean", mean_C), ("running_var", square_C / (count - 1))):
            self.get_buffer(name).lerp_(found_C.detach().flatten(), cast("float", self.momentum))
        self.get_buffer("num_batches_tracked").add_(1)
        scale_C = (square_C / count + self.eps).rsqrt() * self.weight.view_as(mean_C)
        return centred_BC * scale_C + self.bias.view_as(mean_C)

    def _check_input_dim(self, x_BC: Tensor) -> None:
        """Take any shape."""


def share_batch_statistics(model: nn.Module, world: World) -> None:
    """Replace the batch normalisations within a model by ones over the global batch."""
    if world.size == 1:
        return
    if world.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
        return
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            shared = SharedBatchNorm(module.num_features, module.eps, module.momentum)
            shared.load_state_dict(module.state_dict())
            model.set_submodule(name, shared)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes.

    For the encoder that is the sum of what each slice of the batch contributes (see `gather`), for
    the similarity, whose gradient all processes know in full, no change. One flat transfer of 9 MB
    takes less than a millisecond between GPUs, so there is nothing worth hiding behind the
    backward pass.
    """
    if not dist.is_initialized():
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def any_of(flag: bool) -> bool:
    """Whether the flag is raised in at least one process; all get the same answer."""
    if not dist.is_initialized():
        return flag
    raised = torch.tensor(int(flag))
    dist.all_reduce(raised, op=dist.ReduceOp.MAX)
    return bool(raised)


def collect(value: Any) -> list[Any]:
    """Give every process the values of all, in rank order."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
