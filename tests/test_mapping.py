"""Work over many items: the same results in order, and the same bytes, whoever runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import tiny_render
import yaml

from flows import mapping
from phalar import pool

ROOT = Path(__file__).parents[1]
SPLITS = ("train", "valid", "test")


def slow_square(number):
    time.sleep(0.02 * (3 - number % 4))
    return number**2


@pytest.mark.parametrize("of", [pool.threads, pool.mapper])
def test_without_a_server_it_is_the_library_s_own_map(of):
    with mapping.tasks("square", of=of)(2, "render") as mapper:
        assert list(mapper(slow_square, list(range(8)))) == [n**2 for n in range(8)]


def test_dask_without_prefect_is_refused_with_the_remedy():
    over = mapping.tasks("square", runner="dask")
    with (
        pytest.raises(ValueError, match=r"render.runner = dask needs Prefect: start `python -m fl"),
        over(2, "render"),
    ):
        pass


def project(folder, workers, runner):
    """Write the parameters of a small render of noise."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["sources"] = ["bands"]
    raw["render"] |= {
        "pairs": {"train": 300, "valid": 40, "test": 40},
        "pair_s": {"train": 0.5, "valid": 0.5, "test": 0.5},
        "pairs_per_shard": 50,
        "trial_candidates": [2, 4],
        "workers": workers,
        "runner": runner,
    }
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))


def render(folder, orchestrator):
    done = subprocess.run(
        [sys.executable, "-m", "flows.render"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PHALAR_ORCHESTRATOR": orchestrator},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return tiny_render.checksums(folder / "data/render")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_two_and_four_workers_in_processes_and_on_dask_write_the_same_bytes(tmp_path):
    pytest.importorskip("prefect_dask", reason="the extra `dask` is not installed")
    made = [
        tiny_render.noise_track(f"{split}-{number}", split=split)
        for split in SPLITS
        for number in range(6)
    ]
    tiny_render.prepare(tmp_path / "data/prepare/bands", made)
    project(tmp_path, 1, "processes")
    first = render(tmp_path, "none")
    assert any(name.endswith(".tar") for name in first)
    server = subprocess.Popen(
        [sys.executable, "-m", "flows.server"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until_it_answers(tmp_path / ".prefect/server.json")
        kinds = [("processes", 2), ("processes", 4), ("dask", 1), ("dask", 2), ("dask", 4)]
        for runner, workers in kinds:
            project(tmp_path, workers, runner)
            assert render(tmp_path, "prefect") == first, (workers, runner)
        with machines(tmp_path / "machines", 3) as address:
            project(tmp_path, 1, address)
            assert render(tmp_path, "prefect") == first
    finally:
        server.terminate()
        server.wait()


def wait_until_it_answers(note):
    """Wait for the server, which takes its time where other tests use the cores."""
    end = time.monotonic() + 300
    while True:
        with suppress(OSError, ValueError):
            url = json.loads(note.read_text())["url"]
            with urllib.request.urlopen(f"{url}/health", timeout=10):
                return
        assert time.monotonic() < end, "the server does not start"
        time.sleep(0.1)


@contextmanager
def machines(folder, count):
    """Have a Dask cluster as of several machines: each worker a process with a home of its own.

    They share the project's files and an address, and no working folder.
    """
    scheduler = folder / "scheduler.json"
    common = ["--scheduler-file", scheduler, "--no-dashboard"]
    words = [["scheduler", "--host", "127.0.0.1", "--port", "0", *common]]
    words += [["worker", "--nthreads", "1", *common]] * count
    started = []
    try:
        for number, each in enumerate(words):
            home = folder / str(number)
            home.mkdir(parents=True)
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "distributed.cli.dask_" + each[0], *map(str, each[1:])],
                    cwd=home,
                    env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(home)},
                    stdout=(home / "log").open("wb"),
                    stderr=subprocess.STDOUT,
                )
            )
            end = time.monotonic() + 60
            while not scheduler.exists():
                assert time.monotonic() < end, (home / "log").read_text()
                time.sleep(0.1)
        yield json.loads(scheduler.read_text())["address"]
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait()
