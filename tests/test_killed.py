"""Kill -9 at random moments of download, prepare and render; the next run ends the same."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import miniatures
import pytest
import web
import yaml
from test_servers import s3_server

from phalar import params, store

ROOT = Path(__file__).parents[1]
TIMES = 20

STAGE = """
import sys
from pathlib import Path
import phalar.download, phalar.params, phalar.prepare, phalar.render
from phalar.sources import cocochorales

if __name__ == "__main__":
    root, stage, cocochorales.URL = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    cocochorales.MD5.clear()
    loaded = phalar.params.load(root / "params.yaml")
    if stage == "download":
        phalar.download.run(loaded, "cocochorales")
    elif stage == "prepare":
        phalar.prepare.run(loaded, "cocochorales")
    else:
        phalar.render.run(loaded, loaded.paths)
"""

ARCHIVES = ("train/1", "train/2", "valid/1", "test/1")


def project(root: Path, uri: str | None = None, workers: int = 2) -> params.Params:
    """Write parameters of a line of three stages on a small CocoChorales; big files go to `uri`."""
    chosen = {"train": [1, 2], "valid": [1], "test": [1]}
    miniatures.settings(root, "cocochorales", download=chosen)
    path = root / "params.yaml"
    raw = yaml.safe_load(path.read_text())
    raw["prepare"] |= {"workers": workers, "store": uri and f"{uri}/prepare"}
    raw["render"] |= {
        "store": uri and f"{uri}/render",
        "workers": workers,
        "pairs": {"train": 400, "valid": 40, "test": 40},
        "pair_s": {"train": 0.5, "valid": 0.5, "test": 0.5},
        "pairs_per_shard": 50,
        "trial_candidates": [2],
    }
    path.write_text(yaml.safe_dump(raw))
    (root / "stage.py").write_text(STAGE)
    return params.load(path)


def start(root: Path, stage: str, url: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(root / "stage.py"), str(root), stage, url],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )


def digest(root: Path) -> dict[str, str]:
    """SHA-256 of all that the stages leave; what is aside counts too, so that nothing may be."""
    found = {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((root / "data").rglob("*"))
        if path.is_file()
    }
    assert not [name for name in found if ".part" in name]
    return found


def kill_and_run_again(root: Path, stages: dict[str, float], url: str) -> int:
    """Kill each stage so often, then let it end; return how many kills came before its end."""
    chance, killed = random.Random(1), 0
    for stage, took_s in stages.items():
        for _ in range(TIMES):
            child = start(root, stage, url)
            time.sleep(chance.uniform(0.2, 1.0) * took_s)
            killed += child.poll() is None
            child.kill()
            child.wait()
        assert start(root, stage, url).wait() == 0
    return killed


def timed(root: Path, stages: Sequence[str], url: str) -> dict[str, float]:
    """Run stages, and tell how long each took."""
    took_s = {}
    for stage in stages:
        begun = time.monotonic()
        assert start(root, stage, url).wait() == 0
        took_s[stage] = time.monotonic() - begun
    return took_s


@pytest.mark.slow
def test_killed_twenty_times_and_run_again_gives_the_same_bytes(tmp_path):
    with web.serve() as site:
        for place, name in enumerate(ARCHIVES):
            site.files[f"{name}.tar.bz2"] = miniatures.cocochorales(
                {f"string_track{10 * place + n:06d}": "violin viola cello" for n in range(10)}
            )
            # So that a kill finds something on its way.
            site.faults[f"{name}.tar.bz2"] = ["slow"] * 1000
        project(tmp_path / "whole")
        took_s = timed(tmp_path / "whole", ("download", "prepare", "render"), site.url)
        expected = digest(tmp_path / "whole")
        assert len([name for name in expected if name.endswith(".tar")]) == 12
        project(tmp_path / "killed")
        assert kill_and_run_again(tmp_path / "killed", took_s, site.url) >= TIMES
        assert digest(tmp_path / "killed") == expected


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_killed_while_publishing_to_a_store_it_ends_in_the_same_bytes(tmp_path):
    uri = "s3://music/killed"
    with s3_server(tmp_path, "music") as _, web.serve() as site:
        for place, name in enumerate(ARCHIVES):
            site.files[f"{name}.tar.bz2"] = miniatures.cocochorales(
                {f"string_track{10 * place + n:06d}": "violin viola cello" for n in range(3)}
            )
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        for root in (whole, killed):
            # One worker, whose start takes no time from what is uploaded.
            project(root, uri, workers=1)
            timed(root, ("download",), site.url)
        took_s = timed(whole, ("prepare", "render"), site.url)
        expected = digest(whole)
        assert not [name for name in expected if name.endswith((".tar", ".parquet.part"))]
        music = store.open_store(uri)
        music.rm(uri, recursive=True)
        assert kill_and_run_again(killed, took_s, site.url) >= TIMES
        assert digest(killed) == expected
        for manifest in killed.rglob(store.MANIFEST):
            for remote in store.read_manifest(manifest.parent).values():
                assert store.sum_of(remote) == remote.sha256
        # What a kill left there has no name that a manifest could say.
        music.invalidate_cache()
        listed = {f"s3://{name}" for name in music.find(uri) if not name.endswith(".part")}
        manifests = map(store.read_manifest, (path.parent for path in killed.rglob(store.MANIFEST)))
        assert listed == {remote.url for found in manifests for remote in found.values()}
