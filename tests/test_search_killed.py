"""An update that is killed at any step goes on where it was, and loses nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from phalar.model import ModelConfig, build_model
from phalar.search import build, open_index
from phalar.search.windows import Grid

RATE_HZ = 16_000

KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from phalar.model import ModelConfig, build_model
from phalar.search import build, open_index
from phalar.search.windows import Grid

torch.set_num_threads(1)
build.COMMIT_EVERY_S = 0.0
library, folder = Path(sys.argv[1]), Path(sys.argv[1]) / ".phalar"
model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()


def update():
    names = {"model_name": "m", "model_sha256": "m"}
    return build.update(library, folder, model, grid=Grid(1.0, 0.5), **names)


steps = 0
CHANGES = {"open", "os.rename", "os.remove", "os.truncate", "os.mkdir"}


def watch(event, given):
    # Right before each step that changes a file of the index, and there are no others.
    global steps, last
    if event in CHANGES and str(folder) in str(given[0]):
        steps += 1
        if steps == last:
            os.kill(os.getpid(), signal.SIGKILL)


for last in range(1, 1000):
    if (child := os.fork()) == 0:
        sys.addaudithook(watch)
        update()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    if (folder / "index.json").exists():
        known = {entry.path for entry in open_index(library).entries if entry.windows}
        assert known.issuperset(sys.argv[2:]), known
else:
    raise AssertionError("it never comes to an end")
print(last)
"""


def write(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sound = np.random.default_rng(seed).normal(0, 0.1, RATE_HZ)
    soundfile.write(path, sound, RATE_HZ)


@pytest.mark.parametrize("change", ["new", "gone"])
def test_killed_at_any_step_an_update_goes_on_and_loses_nothing(tmp_path, change) -> None:
    """Each step of an update is the last of a process of its own, until one comes to the end."""
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1)).eval()
    library = tmp_path / "stems"
    names, kept = {"a.wav", "sub/b.wav", "sub/c.wav"}, []
    for seed, name in enumerate(sorted(names)):
        write(library / name, seed)
    if change == "gone":
        build.update(
            library,
            library / ".phalar",
            model,
            model_name="m",
            model_sha256="m",
            grid=Grid(1.0, 0.5),
        )
        # Half of the vectors are of no file then, and the others are written anew.
        for name in ("a.wav", "sub/b.wav"):
            (library / name).unlink()
        write(library / "d.wav", 7)
        names, kept = {"sub/c.wav", "d.wav"}, ["sub/c.wav"]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, library, *kept], check=True, stdout=subprocess.PIPE
    )
    assert int(done.stdout) > 10
    index = open_index(library)
    assert {path.name for path in index.folder.iterdir()} == {
        "lock", "index.json", "files.parquet", index.state.vectors
    }  # fmt: skip
    assert {entry.path for entry in index.entries} == names
    assert len(index.vectors) == len(names)
    vectors = np.array(index.vectors)
    for entry in index.entries:
        sound = torch.from_numpy(soundfile.read(library / entry.path, dtype="float32")[0])
        z = model.embed(sound[None], RATE_HZ)
        np.testing.assert_allclose(
            vectors[entry.first], model.search_vectors(z)[0].numpy(), atol=1e-5
        )
