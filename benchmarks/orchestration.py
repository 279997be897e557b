"""What orchestration adds to a stage: a function alone, as a flow, recorded by Prefect, run by DVC.

    python benchmarks/orchestration.py [--rounds 5]

Six stages that do nothing, in a temporary project with a server of its own; the ways take turns, so
that a busy machine slows all of them; medians of wall time, as a user waits for it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGES = 6

FLOW = """
from pathlib import Path
from flows.command import main
from flows.orchestrator import flow, task

work = task(lambda line: None, name="work")

@flow
def {name}(line):
    work(line)

if __name__ == "__main__":
    main({name})
"""

DVC = """
stages:
  stage:
    foreach: [{names}]
    do:
      cmd: python ${{item}}.py && date +%N > ${{item}}.out
      deps: [before.txt]
      outs: ["${{item}}.out"]
"""


def main() -> None:
    """Measure, and print seconds a stage."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        with server(folder):
            took = {way: [] for way in WAYS}
            for number in range(rounds):
                (folder / "before.txt").write_text(str(number))
                for way in WAYS:
                    took[way].append(measure(folder, way))
    print(f"seconds a stage, median of {rounds} rounds")
    for way, seconds in took.items():
        print(f"{way:42} {statistics.median(seconds):5.2f}")


WAYS = {
    "python that imports the library's parameters": ("python", "alone.py"),
    "flow without a server": ("python", "stage0.py"),
    "flow recorded by a server": ("python", "stage0.py"),
    "DVC, flow without a server": ("python", "-m", "dvc", "repro", "--force"),
    "DVC, flow recorded by a server": ("python", "-m", "dvc", "repro", "--force"),
    "second dvc repro, all six stages": ("python", "-m", "dvc", "repro"),
}


def measure(folder: Path, way: str) -> float:
    """Seconds a stage of one way."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "DVC_NO_ANALYTICS": "1",
        "PHALAR_ORCHESTRATOR": "prefect" if "recorded" in way else "none",
    }
    start = time.perf_counter()
    subprocess.run(WAYS[way], cwd=folder, env=environment, check=True, capture_output=True)
    took_s = time.perf_counter() - start
    return took_s / STAGES if "--force" in WAYS[way] else took_s


def prepare(folder: Path) -> None:
    """Lay out the project."""
    names = [f"stage{number}" for number in range(STAGES)]
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "alone.py").write_text("from phalar import params, runlog")
    for name in names:
        (folder / f"{name}.py").write_text(FLOW.format(name=name))
    (folder / "dvc.yaml").write_text(DVC.format(names=", ".join(names)))
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "--quiet"], cwd=folder, check=True)


@contextmanager
def server(folder: Path) -> Iterator[None]:
    """Run a local Prefect server in the project."""
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.server", "--while", str(os.getpid())],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    child.stdout.readline()
    try:
        yield
    finally:
        child.terminate()
        child.wait()


if __name__ == "__main__":
    main()
