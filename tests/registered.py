"""A tiny project whose model is registered, in a git repository of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
import yaml
from test_lineage import SOURCE, make_project
from test_register import figures

from phalar import params, register, runlog
from phalar.model import ModelConfig, build_model, save_model
from phalar.params import Params, Paths

ROOT = Path(__file__).parents[1]


class Project:
    """Songs, pairs and models without sound worth hearing; a registry and a commit."""

    def __init__(self, folder: Path, tiny_songs: Any) -> None:
        self.folder = folder
        self.paths: Paths = make_project(folder, tiny_songs)
        (self.paths.render / "trials.parquet").write_bytes(b"trials")
        self.write_params()
        self.git("init", "--quiet")
        self.commit()
        self.paths.evaluate.mkdir()
        (self.paths.evaluate / "metrics.json").write_text(json.dumps(figures(0.7, 0.6)))

    @property
    def params(self) -> Params:
        return params.load(self.folder / "params.yaml")

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def write_params(self) -> None:
        raw = yaml.safe_load((ROOT / "params.yaml").read_text())
        raw["sources"] = [SOURCE]
        (self.folder / "params.yaml").write_text(yaml.safe_dump(raw))

    def git(self, *words: str) -> str:
        who = {f"GIT_{role}_{what}": "a" for role in ("AUTHOR", "COMMITTER") for what in ("NAME",)}
        mail = {f"GIT_{role}_EMAIL": "a@b.c" for role in ("AUTHOR", "COMMITTER")}
        environment = {**os.environ, **who, **mail, "GIT_CONFIG_GLOBAL": os.devnull}
        done = subprocess.run(
            ["git", *words],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self) -> None:
        self.git("add", "params.yaml")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a state")

    def register(self, seed: int, *, dirty: bool = False) -> register.Summary:
        """Register an untrained model, as if it were trained on the pairs that lie there."""
        model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(seed))
        save_model(model, self.paths.train)
        facts = {
            "run_id": None,
            "experiment": "phalar",
            "git_commit": self.git("rev-parse", "HEAD"),
            "git_dirty": dirty,
            "params_sha256": "a" * 64,
            "data_sha256": runlog.data_digest(self.paths.render),
        }
        (self.paths.train / "run.json").write_text(json.dumps(facts))
        return register.run(self.params, self.paths)
