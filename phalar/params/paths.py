"""Every path under data/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """Every path of the line, below one root."""

    root: Path

    def download(self, source: str) -> Path:
        """Files of one source and their receipt."""
        return self.root / "download" / source

    def prepare(self, source: str) -> Path:
        """Parquet of one source."""
        return self.root / "prepare" / source

    @property
    def render(self) -> Path:
        """Shards, pairs and trials."""
        return self.root / "render"

    @property
    def train(self) -> Path:
        """Weights, checkpoints, history."""
        return self.root / "train"

    @property
    def evaluate(self) -> Path:
        """Metrics, plots, report."""
        return self.root / "evaluate"

    @property
    def register(self) -> Path:
        """Lineage and card."""
        return self.root / "register"
