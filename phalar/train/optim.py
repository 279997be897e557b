"""Muon and Adam, their schedule, and the running mean of the weights."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from phalar import params

# Keller Jordan's quintic: so steep at zero that five steps bring 0.002 and 1 alike near one.
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised: every singular direction of a weight moves alike.

    Parameters
    ----------
    weights : iterable of parameters
        Two or more dimensions each; a convolution kernel (out, in, ...) counts as (out, rest).
    learning_rate, momentum, weight_decay : float
        Nesterov momentum; the decay is decoupled.
    steps : int
        Newton-Schulz steps, in bfloat16 where that is fast; weights of equal shape share products.

    Notes
    -----
    The paper names no scaling of the update. This is that of Muon's first publication
    (https://kellerjordan.github.io/posts/muon/), sqrt(max(1, out / rest)), for which 0.02 is the
    customary learning rate. `torch.optim.Muon` takes matrices only.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        momentum: float,
        steps: int,
        weight_decay: float,
    ) -> None:
        defaults = {
            "lr": learning_rate,
            "momentum": momentum,
            "steps": steps,
            "weight_decay": weight_decay,
        }
        super().__init__(weights, defaults)
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.ndim < 2:
                    raise ValueError(f"Muon: a weight of shape {tuple(weight.shape)} is no matrix")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        if closure is not None:
            raise ValueError("Muon: evaluates no closure; compute the gradients before the step")
        for group in self.param_groups:
            for weights in _by_shape(w for w in group["params"] if w.grad is not None):
                self._step_alike(weights, group)

    def _step_alike(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Step weights of one shape together."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        momenta = []
        for weight in weights:
            state = self.state[weight]
            if not state:
                state["momentum"] = torch.zeros_like(weight)
            momenta.append(state["momentum"])
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, momenta, group["momentum"])
        matrices = torch.stack([update.flatten(1) for update in ahead])
        rows, columns = matrices.shape[1:]
        updates = orthogonalise(matrices, steps=group["steps"])
        scale = math.sqrt(max(1.0, rows / columns))
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        shaped = [u.reshape(w.shape) for u, w in zip(updates, weights, strict=True)]
        torch._foreach_add_(weights, shaped, alpha=-group["lr"] * scale)


def orthogonalise(matrices: Tensor, *, steps: int) -> Tensor:
    """Bring the singular values of matrices (S, rows, columns) near one, their vectors kept.

    "Near" is 0.7 to 1.2: the quintic trades exactness, which training does not notice, for speed.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    half = matrices.dtype == torch.float32 and _multiplies_bfloat16(matrices.device)
    x = (matrices.mT if tall else matrices).to(torch.bfloat16 if half else matrices.dtype)
    # The Frobenius norm bounds the largest singular value.
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    orthogonal: Tensor = x.mT if tall else x
    return orthogonal.to(matrices.dtype)


def _multiplies_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 products are fast: on CPUs that have them a step of Muon took a third."""
    return device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()


def build_optimisers(
    model: nn.Module, similarity: nn.Module, config: params.Optimiser
) -> list[torch.optim.Optimizer]:
    """Share a model's parameters between Muon and Adam, by their kind and place.

    Muon takes weights with two or more dimensions outside the similarity, Adam all the rest.

    Notes
    -----
    Adam's weight decay is decoupled (AdamW), as in the published Muon-with-Adam code: added to the
    gradient, 1e-3 times a weight would outweigh most of the similarity's gradients.
    """
    scores = {id(parameter) for parameter in similarity.parameters()}
    matrices, rest = [], []
    for parameter in model.parameters():
        if parameter.ndim >= 2 and id(parameter) not in scores:
            matrices.append(parameter)
        else:
            rest.append(parameter)
    muon = Muon(
        matrices,
        learning_rate=config.muon.learning_rate,
        momentum=config.muon.momentum,
        steps=config.muon.newton_schulz_steps,
        weight_decay=config.muon.weight_decay,
    )
    on_cuda = bool(rest) and rest[0].is_cuda
    adam = torch.optim.AdamW(
        rest,
        lr=config.adam.learning_rate,
        betas=(config.adam.beta1, config.adam.beta2),
        weight_decay=config.adam.weight_decay,
        fused=on_cuda,
        foreach=not on_cuda,
    )
    for optimiser in (muon, adam):
        for group in optimiser.param_groups:
            group["initial_lr"] = group["lr"]
    return [muon, adam]


def rate_factor(step: int, *, steps: int, config: params.Optimiser) -> float:
    """Give the factor on all learning rates at a step, counted from 0: warm-up, plateau, decay.

    The warm-up rises linearly and reaches 1 at `warmup_steps`; the decay falls over the last
    `decay.fraction` of the steps and would reach 0 one step after the last.
    """
    factor = 1.0
    if step < config.warmup_steps:
        factor = (step + 1) / (config.warmup_steps + 1)
    decay_steps = config.decay.fraction * steps
    left = steps - step
    if left < decay_steps:
        share = left / decay_steps
        linear = config.decay.shape == "linear"
        factor *= share if linear else (1 - math.cos(math.pi * share)) / 2
    return factor


def set_rates(optimisers: list[torch.optim.Optimizer], factor: float) -> None:
    """Set every group's learning rate to a share of its initial one."""
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = factor * group["initial_lr"]


class Average:
    """A running mean of a model's parameters, which is validated and exported instead of them.

    It starts warm: at step n the decay is at most (1 + n) / (10 + n), so that the random initial
    weights are soon forgotten. With `decay` 0 the parameters stand for themselves.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = dict(model.named_parameters())
        self.mean = (
            {name: p.detach().clone() for name, p in self.parameters.items()} if decay else {}
        )

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after a step, counted from 0."""
        if self.mean:
            decay = min(self.decay, (1 + step) / (10 + step))
            parameters = [self.parameters[name].detach() for name in self.mean]
            torch._foreach_lerp_(list(self.mean.values()), parameters, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the mean in the parameters' place for the time of a `with` block."""
        own = {name: self.parameters[name].detach().clone() for name in self.mean}
        self._assign(self.mean)
        try:
            yield
        finally:
            self._assign(own)

    @torch.no_grad()
    def _assign(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)


def _by_shape(weights: Iterable[Tensor]) -> list[list[Tensor]]:
    alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for weight in weights:
        alike[weight.flatten(1).shape].append(weight)
    return list(alike.values())
