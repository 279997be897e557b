"""What changes in the course of a training, and how it goes into a checkpoint and comes back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from phalar.model import Phalar
from phalar.params import Train
from phalar.train.checkpoint import Snapshot
from phalar.train.optim import Average

Row = dict[str, float]


@dataclass(slots=True)
class State:
    """A training between two steps."""

    model: Phalar
    optimisers: list[torch.optim.Optimizer]
    average: Average
    step: int = 0
    """Steps done."""
    history: list[Row] = field(default_factory=list)
    """One row of measurements an interval."""
    recent: list[list[float]] = field(default_factory=list)
    """Loss, accuracy and gradient norm of the steps since the last row."""
    validations: list[Row] = field(default_factory=list)
    """Step, accuracy of each source and their mean, of each validation."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """Weights of the best validation."""
    started: str = ""
    """When the training began, ISO 8601."""
    seconds: float = 0.0
    """Time that it took so far, interruptions left out."""
    run_id: str | None = None
    """Of MLflow."""

    @property
    def best_validation(self) -> Row:
        """The validation with the highest mean accuracy; of equals the last, trained longest."""
        return max(reversed(self.validations), key=lambda row: row["mean"])

    @property
    def validations_since_best(self) -> int:
        """How many validations have passed without a better one."""
        return len(self.validations) - 1 - self.validations.index(self.best_validation)

    def is_over(self, settings: Train) -> bool:
        """Whether all steps are done, or the last validations brought nothing."""
        patience = settings.validate_.patience
        if self.validations and patience is not None and self.validations_since_best >= patience:
            return True
        return self.step >= settings.steps

    def keep_if_best(self) -> None:
        """Keep the weights as they are now if the last validation is the best."""
        if self.validations_since_best == 0:
            self.best = {
                name: tensor.detach().cpu().clone()
                for name, tensor in self.model.state_dict().items()
            }

    def check_finite(self) -> None:
        """Refuse to go on from weights that are not finite, before a checkpoint holds them.

        Raises
        ------
        FloatingPointError
            The last step made them so, though its loss and its gradient were finite.
        """
        norm = float(torch.nn.utils.get_total_norm(p.detach() for p in self.model.parameters()))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"train: step {self.step} made the norm of the weights {norm:g}; lower the "
                f"learning rates in train.optimiser (checkpoints from before that step stay)"
            )

    def snapshot(self) -> Snapshot:
        """Gather everything that a checkpoint must hold."""
        tensors = {f"model/{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"average/{name}": t for name, t in self.average.mean.items()}
        tensors |= {f"best/{name}": t for name, t in self.best.items()}
        for number, optimiser in enumerate(self.optimisers):
            for index, entries in optimiser.state_dict()["state"].items():
                for key, value in entries.items():
                    tensors[f"optimiser/{number}/{index}/{key}"] = torch.as_tensor(value)
        facts: dict[str, Any] = {
            "history": self.history,
            "recent": self.recent,
            "validations": self.validations,
            "started": self.started,
            "seconds": self.seconds,
            "run_id": self.run_id,
        }
        return Snapshot(self.step, tensors, facts)

    def restore(self, snapshot: Snapshot) -> None:
        """Take up the training that a checkpoint holds."""
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}}
        momenta: list[dict[int, dict[str, Tensor]]] = [{} for _ in self.optimisers]
        for name, tensor in snapshot.tensors.items():
            part, _, rest = name.partition("/")
            if part == "optimiser":
                number, index, key = rest.split("/")
                momenta[int(number)].setdefault(int(index), {})[key] = tensor
            else:
                parts[part][rest] = tensor
        self.model.load_state_dict(parts["model"])
        for name, mean in self.average.mean.items():
            mean.copy_(parts["average"][name])
        self.best = parts["best"]
        for optimiser, entries in zip(self.optimisers, momenta, strict=True):
            groups = optimiser.state_dict()["param_groups"]
            optimiser.load_state_dict({"state": entries, "param_groups": groups})
        self.step = snapshot.step
        for name, fact in snapshot.facts.items():
            setattr(self, name, fact)
