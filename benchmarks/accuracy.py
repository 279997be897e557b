"""How soon the embedded default is as good as the first version of this project had to be.

    python benchmarks/accuracy.py --data data --earlier CHECKOUT [--steps 240] [--every-s 20]

Trains on rendered pairs in a folder aside, keeps a checkpoint every so often, and finds by
bisection which first passes both bars of the first version on the frozen test trials (`paper`,
K = 64).
CHECKOUT is the tree of that version (`git worktree add CHECKOUT 27334df`): some of its steps are
timed on the same pairs with its own parameters, and its whole training is as many as they say.
All is CPU time of all processes, from the start of the command, imports included.
"""

import argparse
import bisect
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
import yaml
from safetensors.torch import load_file

from phalar import params
from phalar.evaluate.hearing import embed
from phalar.evaluate.retrieval import Trials, read_trials, score_trials
from phalar.model import ModelConfig, Phalar, build_model
from phalar.train.shards import PairIndex, read_crop

BARS_PERCENT = {"chorales": 70.0, "bands": 30.0}
CANDIDATES = 64


def train(code: Path, folder: Path, data: Path, *, until: int, every_s: float) -> Iterator[float]:
    """Train in a folder with the code and the parameters of a tree; yield CPU s after each step.

    Checkpoints are linked into `folder/kept` as they come.
    """
    raw = yaml.safe_load((code / "params.yaml").read_text())
    raw["train"] |= {"log_every_steps": 1, "checkpoint_every_s": every_s}
    (folder / "kept").mkdir(parents=True)
    (folder / "data").mkdir()
    (folder / "data" / "render").symlink_to((data / "render").resolve())
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    trainer = subprocess.Popen(
        [sys.executable, "-m", "phalar.train", "--params", str(folder / "params.yaml")],
        cwd=code,
        env={**os.environ, "PYTHONPATH": str(code), "MLFLOW_TRACKING_URI": "sqlite:////none/x"},
        stdout=subprocess.PIPE,
        text=True,
    )
    leader = psutil.Process(trainer.pid)
    for line in trainer.stdout or ():
        if not line.startswith("step "):
            continue
        family = [leader, *leader.children(recursive=True)]
        yield sum(sum(member.cpu_times()[:2]) for member in family)
        for path in folder.glob("data/train/checkpoints/*/step-*.safetensors"):
            if not (kept := folder / "kept" / path.name).exists():
                kept.hardlink_to(path)
        if line.startswith(f"step {until}/"):
            break
    trainer.terminate()
    trainer.communicate()


def hear(render: Path, trials: list[Trials], clip_s: float) -> np.ndarray:
    """Read both sides of the pairs that trials ask, from their middle: (P, 2, N)."""
    index = PairIndex.read(render, "test")
    samples = round(clip_s * 16_000)
    wanted = np.unique(np.concatenate([np.append(t.choices, t.anchors) for t in trials]))
    stored = np.zeros((len(wanted), 2, samples), np.int16)
    for pair, out in zip(wanted, stored, strict=True):
        read_crop(index, int(pair), (index.samples - samples) // 2, out)
    return stored.astype(np.float32) / 2**15


def accuracies(model: Phalar, waves: np.ndarray, trials: list[Trials]) -> dict[str, float]:
    """Top-1 accuracy of each source in percent."""
    z_P2RD = torch.from_numpy(embed(model, waves.reshape(-1, waves.shape[-1])))
    anchors, positives = z_P2RD.unflatten(0, (-1, 2)).unbind(1)
    with torch.inference_mode():
        scores = model.score_matrix(anchors, positives, commutative=True).numpy()
    return {t.source: 100 * float(np.mean(score_trials(scores, t) == 0)) for t in trials}


def load(path: Path, config: params.Train) -> Phalar:
    """Build the model of a checkpoint."""
    generator = torch.Generator().manual_seed(0)
    model = build_model(ModelConfig(config.variant, config.dropout), generator=generator)
    tensors = load_file(path)
    own = {name.removeprefix("model/"): t for name, t in tensors.items() if name[:6] == "model/"}
    model.load_state_dict(own)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--earlier", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=240, help="train so far")
    parser.add_argument("--earlier-steps", type=int, default=30)
    parser.add_argument("--every-s", type=float, default=20.0, help="between checkpoints")
    asked = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    config = params.load(here / "params.yaml")
    paper = read_trials(asked.data / "render/trials.parquet", "test")
    paper = [t for t in paper if (t.protocol, t.candidates) == ("paper", CANDIDATES)]
    pairs = np.unique(np.concatenate([np.append(t.choices, t.anchors) for t in paper]))
    waves = hear(asked.data / "render", paper, config.evaluate.clip_s)
    trials = [t.among(pairs) for t in paper]

    with tempfile.TemporaryDirectory() as name:
        earlier, now = Path(name, "earlier"), Path(name, "now")
        until = asked.earlier_steps
        spent_s = list(
            train(asked.earlier.resolve(), earlier, asked.data, until=until, every_s=1e9)
        )
        step_s = (spent_s[-1] - spent_s[0]) / (len(spent_s) - 1)
        recipe = yaml.safe_load((asked.earlier / "params.yaml").read_text())["train"]
        whole_s = spent_s[0] + step_s * (recipe["steps"] - 1)
        print(
            f"earlier: {step_s:.2f} s a step, {recipe['steps']} steps in {whole_s:.0f} s of CPU",
            flush=True,
        )

        begun_s = time.monotonic()
        spent_s = list(train(here, now, asked.data, until=asked.steps, every_s=asked.every_s))
        step_s = (spent_s[-1] - spent_s[0]) / (len(spent_s) - 1)
        clock_s = time.monotonic() - begun_s
        print(f"now: {step_s:.2f} s a step; {clock_s:.0f} s by the clock", flush=True)

        def passes(path: Path) -> bool:
            step = int(path.stem.removeprefix("step-"))
            found = accuracies(load(path, config.train), waves, trials)
            told = ", ".join(f"{source} {value:.1f} %" for source, value in found.items())
            share = spent_s[step - 1] / whole_s
            print(f"step {step}, {spent_s[step - 1]:.0f} s, {share:.2f} of it: {told}", flush=True)
            return all(found[source] >= bar for source, bar in BARS_PERCENT.items())

        kept = sorted((now / "kept").glob("*.safetensors"))
        first = bisect.bisect_left(kept, True, key=passes)
    if first == len(kept):
        sys.exit("the bars were not passed; raise --steps")
    print(f"both bars are passed first by {kept[first].name}")


if __name__ == "__main__":
    main()
