"""Real servers on loopback: MLflow keeps and serves a model, and DVC pushes to S3 and pulls."""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from registered import Project

import phalar
from phalar import audio
from phalar.lineage import record, trace
from phalar.lineage.check import WRONG
from phalar.lineage.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

PATIENCE_S = 300.0
RATE_HZ = 16_000


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(words: list[str], folder: Path, ready: str) -> Iterator[None]:
    """Have a server while the block runs."""
    output = (folder / f"{Path(words[0]).name}.log").open("wb")
    # MLflow starts uvicorn by its name, as where the environment is activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    child = subprocess.Popen(
        words, cwd=folder, stdout=output, stderr=output, env={**os.environ, "PATH": path}
    )
    try:
        end = time.monotonic() + PATIENCE_S
        while not answers(ready):
            assert child.poll() is None, Path(output.name).read_text()
            assert time.monotonic() < end, Path(output.name).read_text()
            time.sleep(0.5)
        yield
    finally:
        child.terminate()
        child.wait(timeout=60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def command(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@contextmanager
def s3_server(folder: Path, bucket: str) -> Iterator[dict[str, str]]:
    """Have an S3 server with a bucket, and the environment set that finds it."""
    pytest.importorskip("s3fs", reason="the extra `s3` is not installed")
    port = free_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    words = [command("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    url = environment["AWS_ENDPOINT_URL"]
    with running(words, folder, url), pytest.MonkeyPatch.context() as patch:
        urllib.request.urlopen(urllib.request.Request(f"{url}/{bucket}", method="PUT")).close()
        for name, value in environment.items():
            patch.setenv(name, value)
        yield environment


def test_mlflow_server_keeps_and_serves_the_model(tmp_path, tiny_songs, monkeypatch) -> None:
    store = tmp_path / "server"
    store.mkdir()
    port = free_port()
    server = [command("mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    server += ["--backend-store-uri", f"sqlite:///{store}/server.db"]
    server += ["--artifacts-destination", str(store / "artifacts"), "--workers", "1"]
    with running(server, store, f"http://127.0.0.1:{port}/health"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        project = Project(tmp_path / "project", tiny_songs)
        monkeypatch.chdir(project.folder)
        assert project.register(1).champion == "1"
        assert not (project.folder / "mlflow.db").exists()
        checks = verify(record.read("phalar@champion"), project.paths)
        wrong = {c.link for c in checks if c.state == WRONG}
        # The made songs have no files of their own, and names as checksums.
        assert wrong <= {"source files"}
        found = trace.find(trace.Wanted(track="bands/train-0"), project.paths)
        assert [place.name for place in found.places] == ["data/render", "phalar/1"]
        answer_with_audio(project)


def answer_with_audio(project: Project) -> None:
    """Serve the champion, and compare its answer with the model on disk."""
    port = free_port()
    serve = [command("mlflow"), "models", "serve", "-m", "models:/phalar@champion"]
    serve += ["--env-manager", "local", "--port", str(port), "--workers", "1"]
    rng = np.random.default_rng(1)
    clips = rng.normal(0, 0.1, (2, 2 * RATE_HZ)).astype(np.float32)
    files = [base64.b64encode(audio.encode(clip)).decode() for clip in clips]
    bodies = [
        {"inputs": clips.tolist(), "params": {"sample_rate": RATE_HZ}},
        {"inputs": [[]], "params": {"files": files}},
    ]
    with running(serve, project.folder, f"http://127.0.0.1:{port}/ping"):
        said = []
        for body in bodies:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=120) as told:
                said.append(json.load(told)["predictions"])
    model = phalar.load_model(project.paths.train)
    z = model.embed(clips, RATE_HZ)
    expected = torch.stack([z.real, z.imag], 1).numpy()
    as_arrays, as_files = (np.array(each["embedding"]) for each in said)
    np.testing.assert_allclose(as_arrays, expected, rtol=1e-4, atol=1e-5)
    # FLAC holds 16 bits.
    np.testing.assert_allclose(as_files, expected, atol=0.01 * np.abs(expected).max())


def test_dvc_pushes_to_s3_and_pulls_from_it(tmp_path) -> None:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "data/pairs").write_bytes(os.urandom(100_000))

    def dvc(*words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "dvc", *words],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    with s3_server(tmp_path, "store") as found:
        dvc("init", "--no-scm")
        dvc("remote", "add", "--default", "store", "s3://store/phalar")
        dvc("remote", "modify", "store", "endpointurl", found["AWS_ENDPOINT_URL"])
        dvc("add", "data/pairs")
        dvc("push")
        content = (folder / "data/pairs").read_bytes()
        shutil.rmtree(folder / ".dvc/cache")
        (folder / "data/pairs").unlink()
        dvc("pull")
        assert (folder / "data/pairs").read_bytes() == content
