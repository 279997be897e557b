"""Ablations: the table beside the paper's, and experiments of DVC's, on a toy and on the line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_line import ROOT, Line, wait_for

from flows import ablate, experiments
from phalar import params as parameters
from phalar.evaluate import ablation, ranks
from phalar.evaluate.compare import compare
from phalar.model import VARIANTS

SETTINGS = parameters.load(ROOT / "params.yaml")
BUDGET = {"steps": 5}


# ---- the table ---------------------------------------------------------------------------------


def answered(folder: Path, variant: str, hits: np.ndarray, question: str = "same") -> None:
    """Write what the evaluation of a variant leaves: two sources, K = 2 and 4, as many hits."""
    rows, metrics = [], {}
    for source in ("bands", "chorales"):
        for k in (2, 4):
            for trial, hit in enumerate(hits.tolist()):
                rows += [
                    {
                        "source": source,
                        "protocol": "paper",
                        "candidates": k,
                        "asks": asks,
                        "trial": trial,
                        "pair": trial,
                        "song": f"song{trial % 5}",
                        "rank": 0 if hit else 1,
                    }
                    for asks in ("anchor", "positive")
                ]
            found = {
                "top1": hits.mean() / k,
                "low": 0.1,
                "high": 0.9,
                "mrr": 0.5,
                "trials": len(hits),
            }
            metrics.setdefault(source, {}).setdefault("paper", {})[str(k)] = found
    (folder / variant).mkdir(parents=True)
    ranks.write(folder / variant / ranks.RANKS, ranks.table(rows, question))
    (folder / variant / "metrics.json").write_text(json.dumps({"retrieval": metrics}))
    (folder / variant / "model.json").write_text(json.dumps({"parameters": 1234}))


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(2)
    for variant, share in (("full", 0.9), ("gap", 0.2), ("mel", 0.9)):
        answered(tmp_path, variant, rng.random(60) < share)
    return tmp_path


def test_the_table_knows_every_variant() -> None:
    assert set(ablation.PAPER) == set(VARIANTS)
    best_first = [published.top1 for published in ablation.PAPER.values()]
    assert best_first == sorted(best_first, reverse=True)


def test_ours_stands_beside_the_papers_with_the_paired_difference(folder) -> None:
    found = ablation.measure(folder, ["gap", "full"], BUDGET, SETTINGS)
    assert found["candidates"] == {"bands": 4, "chorales": 4}
    gap = found["variants"]["gap"]
    assert gap["paper"] == {"top1": 51.97, "parameters": 684_400}
    own = gap["ours"]["sources"]["bands"]
    metrics = json.loads((folder / "gap/metrics.json").read_text())["retrieval"]["bands"]["paper"][
        "4"
    ]
    assert {name: own[name] for name in ablation.FIGURES} == {
        n: metrics[n] for n in ablation.FIGURES
    }
    settings = SETTINGS.evaluate
    compared = compare(
        *(ranks.read(folder / name) for name in ("gap", "full")),
        resamples=settings.bootstrap,
        seed=settings.seed,
    )
    (expected,) = [c for c in compared if (c.source, c.candidates) == ("bands", 4)]
    assert own["against_full"]["difference"] == pytest.approx(expected.difference, abs=1e-6)
    assert own["against_full"]["high"] < 0
    assert own["against_full"]["p"] < 0.05
    assert "against_full" not in found["variants"]["full"]["ours"]["sources"]["bands"]
    # A folder that lies there from another budget is not taken for one of this.
    assert found["variants"]["mel"]["ours"] == {}


def test_the_table_is_written_in_every_form(folder) -> None:
    found = ablation.measure(folder, ["full", "gap"], BUDGET, SETTINGS)
    ablation.write(folder, found, "python -m flows.ablate --set train.steps=5")
    table = (folder / "table.md").read_text().splitlines()
    assert table[0] == "| variant | parameters | paper | bands, K = 4 | chorales, K = 4 |"
    assert len(table) == 2 + len(VARIANTS)
    assert "| psd | 2,293,104 | 67.85 | not run | not run |" in table
    assert [line for line in table if line.startswith("| gap | 1,234 | 51.97 | ")]
    kept = json.loads((folder / "table.json").read_text())
    assert kept["variants"] == found["variants"]
    assert kept["command"] == "python -m flows.ablate --set train.steps=5"


class Page(HTMLParser):
    """Collects what a page says, and what it points to."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data) -> None:
        self.text += data


def test_the_page_needs_nothing_else_and_says_how_it_was_made(folder) -> None:
    found = ablation.measure(folder, ["full", "gap"], BUDGET, SETTINGS)
    ablation.write(folder, found, "python -m flows.ablate --variants full gap")
    page = Page()
    page.feed((folder / "report.html").read_text())
    assert all(link.startswith("data:") for link in page.links)
    text = " ".join(page.text.split())
    assert (
        "2 of 8 variants were trained here on the same pairs with the same budget: steps 5." in text
    )
    assert "python -m flows.ablate --variants full gap" in text
    assert text.count("not run") == 6 * 2


def test_answers_to_other_trials_are_refused(folder) -> None:
    shutil.rmtree(folder / "gap")
    answered(folder, "gap", np.ones(60), question="another")
    with pytest.raises(ValueError, match="were asked different trials"):
        ablation.measure(folder, ["full", "gap"], BUDGET, SETTINGS)
    (folder / "mel/model.json").unlink()
    with pytest.raises(ValueError, match=r"mel/model.json: missing or damaged .*; evaluate again"):
        ablation.measure(folder, ["mel"], BUDGET, SETTINGS)


# ---- the command -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--variants full gab", "variant 'gab' is not known; choose from full, hermitian,"),
        ("--set train.stebs=3", "params.yaml: train.stebs is not a parameter; mend its spelling"),
        ("--set train.steps", "--set train.steps: must be NAME=VALUE"),
        ("--set train.variant=mel", "the variant is --variants"),
        (
            "--set train.steps=few",
            "params.yaml: train.steps = 'few': Input should be a valid integer",
        ),
    ],
)
def test_wrong_use_is_one_line(words, expected, monkeypatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["ablate", *words.split()])
    assert ablate.main() == 2
    printed = capsys.readouterr().err
    assert expected in printed
    assert printed.count("\n") == 1


# ---- experiments -------------------------------------------------------------------------------

STAGES = {
    "render": {"cmd": "echo pairs > rendered", "outs": ["rendered"]},
    "train": {
        # As a training does, it keeps in the folder of its checkpoints what it has done so far.
        "cmd": 'grep -o "variant: .*" params.yaml > model; echo step >> $PHALAR_CHECKPOINTS/log; '
        "if grep -q bad params.yaml; then echo 'train: it is bad; mend it' >&2; exit 1; fi",
        "params": ["train"],
        "deps": ["rendered", "phalar"],
        "outs": ["model"],
    },
    "evaluate": {"cmd": "cat model > metric", "deps": ["model"], "outs": ["metric"]},
    "register": {"cmd": "false", "deps": ["metric"]},
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A project with stages of the same names that do next to nothing."""
    root = tmp_path_factory.mktemp("toy")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    values = {"train": {"variant": "full", "steps": 1}, "register": {"name": "x"}}
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    (root / "phalar").mkdir()
    (root / "phalar/code.py").write_text("one = 1\n")
    run = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--quiet"], cwd=root, check=True)
    subprocess.run([*dvc, "repro", "--quiet", "render"], cwd=root, check=True)
    subprocess.run([*run, "add", "-A"], cwd=root, check=True)
    subprocess.run([*run, "commit", "--quiet", "-m", "toy"], cwd=root, check=True)
    return root


@pytest.fixture
def there(toy, monkeypatch) -> Path:
    monkeypatch.chdir(toy)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    return toy


def ask(there: Path, name: str, **changes: str) -> None:
    dotted = {f"train.{key}": value for key, value in changes.items()}
    checkpoints = there / "kept" / name
    experiments.run(name, dotted, SETTINGS, target="evaluate", checkpoints=checkpoints)


def test_an_experiment_runs_aside_and_what_it_made_is_fetched(there, capfd) -> None:
    before = {name: (there / name).read_bytes() for name in ("dvc.lock", "params.yaml")}
    ask(there, "ablation-gap", variant="gap")
    assert "Running stage 'evaluate'" in capfd.readouterr().out
    commit = experiments.found()["ablation-gap"]
    experiments.fetch(commit, ["metric"], there / "kept")
    assert (there / "kept/metric").read_text() == "variant: gap\n"
    assert {name: (there / name).read_bytes() for name in before} == before
    assert not (there / "model").exists()
    assert (there / "kept/ablation-gap/log").read_text() == "step\n"


def test_what_is_done_is_known_and_what_differs_is_not(there) -> None:
    commit, path = experiments.found()["ablation-gap"], Path("params.yaml")
    assert experiments.is_done(commit, path, {"train.variant": "gap"})
    assert not experiments.is_done(commit, path, {"train.variant": "mel"})
    assert not experiments.is_done(commit, path, {"train.variant": "gap", "train.steps": "2"})
    for name, change in (("phalar/code.py", "two = 2\n"), ("dvc.lock", "")):
        original = (there / name).read_text()
        (there / name).write_text(change or original.replace("size: 6", "size: 7"))
        assert not experiments.is_done(commit, path, {"train.variant": "gap"}), name
        (there / name).write_text(original)
    assert experiments.is_done(commit, path, {"train.variant": "gap"})


def test_one_that_fails_says_why_and_one_run_again_is_taken_from_the_cache(there) -> None:
    with pytest.raises(RuntimeError, match=r"^train: it is bad; mend it$"):
        ask(there, "ablation-bad", variant="bad")
    assert "ablation-bad" not in experiments.found()
    ask(there, "ablation-gap", variant="gap")
    assert (there / "kept/ablation-gap/log").read_text() == "step\n"


# ---- the line ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def line(tmp_path_factory):
    line = Line(tmp_path_factory.mktemp("ablated"))
    line.succeed("dvc", "repro", "--quiet", "download", PHALAR_ORCHESTRATOR="none")
    line.keep_few_scores()
    line.finish()
    who = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*who, "add", "-A"], cwd=line.folder, check=True)
    subprocess.run([*who, "commit", "--quiet", "-m", "line"], cwd=line.folder, check=True)
    yield line
    for process in line.processes():
        process.kill()


def content(folder: Path) -> dict[str, bytes]:
    """All files of the project but what ablations leave, and DVC's own locks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.is_relative_to(folder / "data" / ablate.FOLDER)
        and not path.is_relative_to(folder / ".dvc/tmp")
        and path.suffix in (".json", ".yaml", ".lock", ".csv", ".parquet", ".safetensors")
    }


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_variants_on_the_line(line) -> None:
    ask = ("flows.ablate", "--set", "train.steps=3")
    before = content(line.folder)
    # Interrupted in the middle of a training ...
    child = line.start(*ask)
    kept = line.folder / "data/ablation/checkpoints/full"
    wait_for(lambda: any(kept.glob("*/step-*.safetensors")), child)
    time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate()
    assert child.returncode == 130
    assert err.splitlines()[-1] == "stopped; the next run goes on from here"
    wait_for(line.nothing_runs)
    assert content(line.folder) == before

    # ... it goes on there, and runs the others.
    printed = line.succeed(*ask)
    assert "goes on at step" in printed
    assert "ablation 8 of 8: cocola, about" in printed
    table = json.loads((line.folder / "data/ablation/table.json").read_text())
    for name, variant in table["variants"].items():
        assert variant["ours"]["parameters"] == variant["paper"]["parameters"], name
        for source in ("bands", "chorales"):
            assert 0 <= variant["ours"]["sources"][source]["top1"] <= 1
            assert ("against_full" in variant["ours"]["sources"][source]) == (name != "full")
    assert content(line.folder) == before
    shown = json.loads(line.succeed("dvc", "exp", "show", "--json"))
    named = {found["name"] for run in shown[1]["experiments"] for found in run["revs"]}
    assert named == {f"ablation-{name}" for name in VARIANTS}

    # With nothing new, nothing runs; none of them is registered.
    again = line.succeed(*ask)
    assert "Reproducing experiment" not in again
    count = "import mlflow; print(len(mlflow.search_model_versions()))"
    uri = {"MLFLOW_TRACKING_URI": f"sqlite:///{line.folder / 'mlflow.db'}"}
    versions = subprocess.run(
        [sys.executable, "-c", count], env={**os.environ, **uri}, capture_output=True, text=True
    )
    assert versions.stdout.strip() == "1"
    assert "ablation-mel would run" in line.succeed("flows.ablate", "--dry-run")
