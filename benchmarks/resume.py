"""How long a killed training takes to its next step.

    python benchmarks/resume.py --data data [--params params.yaml] [--rounds 3]

Trains on rendered pairs in a folder aside until a checkpoint is there, kills all of it with
SIGKILL, and measures the time from starting it again to the end of the first step after the
checkpoint: wall time, which needs cores of its own, and CPU time of all processes.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml


def start(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "phalar.train", "--params", str(folder / "params.yaml")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(trainer: subprocess.Popen[str]) -> None:
    """Kill the launcher and all that it started, so that nothing is saved any more."""
    members = family(trainer)
    for member in members:
        member.kill()
    psutil.wait_procs(members)


def family(trainer: subprocess.Popen[str]) -> list[psutil.Process]:
    leader = psutil.Process(trainer.pid)
    return [leader, *leader.children(recursive=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    os.environ["MLFLOW_TRACKING_URI"] = ""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = yaml.safe_load(asked.params.read_text())
        raw["train"] |= {"log_every_steps": 1, "checkpoint_every_s": 1e-3}
        (folder / "params.yaml").write_text(yaml.safe_dump(raw))
        (folder / "data").mkdir()
        (folder / "data" / "render").symlink_to((asked.data / "render").resolve())
        took_s: list[float] = []
        for number in range(asked.rounds + 1):
            begun_s = time.monotonic()
            trainer = start(folder)
            goes_on = number == 0
            for line in trainer.stdout or ():
                goes_on |= line.startswith("goes on at step")
                if line.startswith("step "):
                    break
            if not goes_on:
                sys.exit("the training began anew")
            if number:
                took_s.append(time.monotonic() - begun_s)
                cpu_s = sum(sum(member.cpu_times()[:2]) for member in family(trainer))
                wall_s = took_s[-1]
                print(f"resume {number}: {wall_s:.1f} s, {cpu_s:.1f} s of CPU time", flush=True)
            checkpoints = folder / "data" / "train" / "checkpoints"
            while not list(checkpoints.glob("*/step-*.safetensors")):
                time.sleep(0.05)
            kill(trainer)
        print(f"median: {statistics.median(took_s):.1f} s")


if __name__ == "__main__":
    main()
