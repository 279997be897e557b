"""The whole line on a tiny version of the data, as a user runs it. The tests go on in order."""

from __future__ import annotations

import csv
import json
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_line import ROOT, Line, wait_for

pytestmark = [pytest.mark.line, pytest.mark.timeout(1500)]

STAGES = {
    "download@chorales",
    "download@bands",
    "prepare@chorales",
    "prepare@bands",
    "render",
    "train",
    "evaluate",
    "register",
}
PLAIN = {"PHALAR_ORCHESTRATOR": "none"}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """The line, run once from nothing."""
    line = Line(tmp_path_factory.mktemp("the line"))
    line.succeed("dvc", "repro", "--quiet", "download", **PLAIN)
    line.keep_few_scores()
    line.finish()
    yield line
    for process in line.processes():
        process.kill()


def test_a_person_sees_what_will_run_and_what_came_out(line: Line) -> None:
    before, _, after = line.printed.partition("Running stage")
    assert "To do, about" in before
    for stage in STAGES - {"download@chorales", "download@bands"}:
        assert re.search(rf"{stage} +│ .+ │ \d+ (s|min)", before), stage
    assert "The line took" in after
    assert re.search(r"chorales +│ paper +│ 4 +│ [\d.]+ +│ [\d.]+–[\d.]+ +│ 25.0", after)
    assert re.search(r"chance +┃ loudness +┃ spectrum", after)
    for place in ("report.html", "model.safetensors", "/mlflow ui --backend", "flows.server"):
        assert place in after


def test_everything_is_there(line: Line) -> None:
    data = line.folder / "data"
    metrics = json.loads((data / "evaluate/metrics.json").read_text())
    for source in ("chorales", "bands"):
        for protocol in ("paper", "songs"):
            for k in ("2", "4"):
                found = metrics["retrieval"][source][protocol][k]
                assert 0 <= found["low"] <= found["top1"] <= found["high"] <= 1
                assert found["trials"] > 0
    assert "chance" in metrics["baselines"]
    lineage = json.loads((data / "register/lineage.json").read_text())
    assert {file["source"] for file in lineage["files"]} == {"chorales", "bands"}
    assert "<html" in (data / "evaluate/report.html").read_text()
    assert (data / "register/card.md").stat().st_size > 0
    history = list(csv.DictReader((data / "train/history.csv").open()))
    assert [row["step"] for row in history] == ["1", "2", "3", "4"]
    assert line.outs().keys() >= {"data/render", "data/train/model.safetensors", "data/register"}
    assert set(line.journal()) == STAGES
    assert line.nothing_runs()


def test_prefect_recorded_the_stages(line: Line) -> None:
    code = (
        "import json, sqlite3\n"
        "database = sqlite3.connect('.prefect/prefect.db')\n"
        "found = database.execute('select flow.name, flow_run.state_type '"
        "'from flow_run join flow on flow.id = flow_run.flow_id')\n"
        "print(json.dumps(list(found)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=line.folder, capture_output=True, text=True, check=True
    )
    recorded = json.loads(done.stdout)
    assert ["register", "COMPLETED"] in recorded
    assert {state for _, state in recorded} == {"COMPLETED"}


def test_a_second_run_does_nothing(line: Line) -> None:
    before = line.journal()
    lock = (line.folder / "dvc.lock").read_bytes()
    printed = line.succeed("flows.repro")
    assert printed.startswith("Everything is up to date.")
    assert "Held-out songs, top-1 accuracy in percent" in printed
    assert "up to date" in line.succeed("dvc", "repro")
    assert line.journal() == before
    assert (line.folder / "dvc.lock").read_bytes() == lock


def due(line: Line) -> set[str]:
    code = "from flows import repro; print(*(stage.name for stage in repro.due({})))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=line.folder,
        env=line.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("section", "name", "value", "expected"),
    [
        ("prepare", "workers", 1, set()),
        ("train", "checkpoint_every_s", 9.0, set()),
        ("register", "name", "other", {"register"}),
        ("register", "promote", {"protocol": "song", "gain": 0.1, "loss": 0.0}, set()),
        ("evaluate", "seed", 5, {"evaluate", "register"}),
        ("train", "steps", 5, {"train", "evaluate", "register"}),
        ("render", "seed", 5, {"render", "train", "evaluate", "register"}),
        (
            "prepare",
            "bands",
            {"renditions": 2, "max_s": 8.0},
            {"prepare@bands", "render", "train", "evaluate", "register"},
        ),
        (
            "download",
            "chorales",
            {"package": "music21", "version": "1"},
            STAGES - {"download@bands", "prepare@bands"},
        ),
    ],
)
def test_a_changed_parameter_makes_just_what_it_must_due(
    line: Line, section: str, name: str, value: Any, expected: set[str]
) -> None:
    path = line.folder / "params.yaml"
    original = path.read_text()
    line.change(lambda values: values[section].update({name: value}))
    try:
        assert due(line) == expected
    finally:
        path.write_text(original)


def test_a_changed_evaluation_runs_just_that_and_by_hand(line: Line) -> None:
    before = line.journal()
    line.change(lambda values: values["evaluate"].update(bootstrap=101))
    printed = line.succeed("dvc", "repro")
    assert "Prefect does not answer" in printed
    assert line.ran_since(before) == {"evaluate", "register"}


def test_two_at_once_and_ctrl_c(line: Line) -> None:
    before = line.journal()
    line.change(lambda values: values["train"].update(seed=2))
    first = line.start("flows.repro", **PLAIN)
    checkpoints = line.folder / "data/train/checkpoints"
    wait_for(lambda: "train" in line.ran_since(before) and any(checkpoints.glob("*")), first)

    second = line.run("flows.repro", **PLAIN)
    assert second.returncode == 1
    assert f"the line runs already, as process {first.pid}; wait for it or stop it" in second.stderr
    assert second.stderr.count("\n") == 1
    by_hand = line.run("dvc", "repro", **PLAIN)
    assert by_hand.returncode != 0
    assert "is busy, it is being blocked by" in by_hand.stderr

    first.send_signal(signal.SIGINT)
    _, err = first.communicate()
    assert first.returncode == 130
    assert err.splitlines()[-1] == "stopped; the next run goes on from here"
    assert "Traceback" not in err
    wait_for(line.nothing_runs)

    line.succeed("flows.repro", **PLAIN)
    assert line.ran_since(before) == {"train", "evaluate", "register"}


def test_a_wrong_parameter_ends_in_one_line(line: Line) -> None:
    path = line.folder / "params.yaml"
    original = path.read_text()
    before = line.journal()
    path.write_text(original.replace("batch_pairs: 4", "batch_pairs: four"))
    try:
        done = line.run("flows.repro")
    finally:
        path.write_text(original)
    assert done.returncode == 2
    assert done.stderr.startswith("params.yaml: train.batch_pairs = 'four': Input should be a")
    assert done.stderr.count("\n") == 1
    assert line.journal() == before


def cut(path: Path) -> None:
    """Halve a file, in a copy: the file itself may be linked to DVC's cache."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[: len(content) // 2])


DAMAGE = {
    "data/download/bands/*.mid": ("prepare", "bands"),
    "data/prepare/bands/train-*.parquet": ("render",),
    "data/render/train/*.tar": ("train",),
    "data/render/pairs.parquet": ("train",),
    "data/render/trials.parquet": ("evaluate",),
    "data/train/model.safetensors": ("evaluate",),
    "data/evaluate/metrics.json": ("register",),
}


@pytest.mark.parametrize("pattern", DAMAGE)
def test_a_damaged_file_is_named(line: Line, pattern: str) -> None:
    path = sorted(line.folder.glob(pattern))[0]
    stage, *source = DAMAGE[pattern]
    whole = path.rename(path.with_name("whole"))
    shutil.copy(whole, path)
    cut(path)
    done = line.run(f"flows.{stage}", *source, **PLAIN)
    whole.replace(path)
    assert done.returncode == 1, done.stdout
    assert path.name in done.stderr
    assert "Traceback" not in done.stderr


def test_damage_is_mended_by_the_next_run(line: Line) -> None:
    outs = line.outs()
    for pattern in ("prepare/bands/train-*.parquet", "render/train/*.tar", "evaluate/metrics.json"):
        cut(sorted((line.folder / "data").glob(pattern))[0])
    line.succeed("flows.repro", **PLAIN)
    assert line.outs() == outs
    assert "up to date" in line.succeed("dvc", "status")


def test_a_full_disk_is_named_and_the_next_run_goes_on(line: Line) -> None:
    outs = line.outs()
    (line.folder / "data/render").rename(line.folder / "data/render.away")
    limit = 200_000  # of each file's bytes, which fails a write as a full disk does
    done = subprocess.run(
        [sys.executable, "-m", "flows.render"],
        cwd=line.folder,
        env={**line.environment, **PLAIN},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.search(r"^render: .*File too large; (make|free some) space", done.stderr)
    assert "Traceback" not in done.stderr
    line.succeed("flows.render", **PLAIN)
    assert outs == line.outs()
    assert "up to date" in line.succeed("dvc", "status")


def test_a_place_that_cannot_be_written_is_named(line: Line) -> None:
    # Also root cannot make a folder where a file stands, whatever its permissions.
    folder = line.folder / "data/evaluate"
    folder.rename(line.folder / "data/evaluate.away")
    folder.write_text("")
    done = line.run("flows.evaluate", **PLAIN)
    folder.unlink()
    (line.folder / "data/evaluate.away").rename(folder)
    assert done.returncode == 1
    assert re.search(r"data/evaluate\S*: (File exists|Not a directory); a file stands", done.stderr)


def test_python_blocks_of_the_readme_run(line: Line) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert blocks
    for block in blocks:
        done = subprocess.run(
            [sys.executable, "-c", block],
            cwd=line.folder,
            env=line.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"


# ---- killed ------------------------------------------------------------------------------------

BEGUN = {
    "download@bands": "download/bands.part",
    "prepare@chorales": "prepare/chorales.part/tracks/*.parquet",
    "prepare@bands": "prepare/bands.part/tracks/*.parquet",
    "render": "render.part/*/*",
    "train": "train/checkpoints/*",
    "evaluate": "journal.json",
    "register": "journal.json",
}
"""What lies below data/ once a stage is in the middle of its work."""

SAME = ("data/download", "data/prepare", "data/render", "data/evaluate/metrics.json")
"""Outputs that are the same whenever they are made; the others name a run and a time."""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A line that has not begun."""
    line = Line(tmp_path_factory.mktemp("killed"))
    yield line
    for process in line.processes():
        process.kill()


def stage_process(line: Line, stage: str) -> psutil.Process:
    """The process that DVC started for a stage."""
    words = ["-m", f"flows.{stage.partition('@')[0]}"]
    return next(p for p in line.processes() if words == p.cmdline()[1:3])


@pytest.mark.parametrize("stage", BEGUN)
def test_a_killed_stage_is_named_and_leaves_nothing_running(killed: Line, stage: str) -> None:
    if stage == "prepare@chorales":
        killed.succeed("dvc", "repro", "--quiet", "download", **PLAIN)
        killed.keep_few_scores()
    child = killed.start("flows.repro", **PLAIN)
    pattern = killed.folder / "data"
    wait_for(lambda: stage in killed.journal() and any(pattern.glob(BEGUN[stage])), child)
    stage_process(killed, stage).kill()
    _, err = child.communicate()
    assert child.returncode == 1
    assert f"\n{stage}: was killed" in err
    assert "\nFinished stages are kept: `make repro` goes on from here.\n" in err
    wait_for(killed.nothing_runs)


def test_a_killed_line_takes_its_stage_with_it(killed: Line) -> None:
    child = killed.start("flows.repro")
    before = killed.journal()
    wait_for(lambda: killed.ran_since(before) == {"register"}, child)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    wait_for(killed.nothing_runs)
    assert child.returncode == -signal.SIGKILL


def test_it_comes_to_the_same_end(killed: Line, line: Line) -> None:
    killed.succeed("flows.repro", **PLAIN)
    found, expected = killed.outs(), line.first_outs
    assert found.keys() == expected.keys()
    same = [path for path in expected if path.startswith(SAME)]
    assert len(same) == 6
    assert {path: found[path] for path in same} == {path: expected[path] for path in same}
    left = [path for path in (killed.folder / "data").rglob("*.part*")]
    assert left == []
