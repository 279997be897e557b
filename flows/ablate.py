"""Ablate: all variants of the model with one budget, as DVC's experiments, and their table."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml
from dvc.exceptions import DvcException
from rich.console import Console
from rich.table import Table

from flows import experiments, journal, process, repro, server
from flows.command import FAILED, STOPPED, WRONG_USE, explain, fail
from flows.experiments import Changes
from phalar import params as parameters
from phalar import runlog
from phalar.evaluate import ablation
from phalar.params import Params

LOCK = Path(".dvc/tmp/ablation.lock")
FOLDER = "ablation"
TARGET = "evaluate"
"""The last stage of an experiment: no ablation is registered."""
VARIANT = "train.variant"
MADE = ["data/evaluate/metrics.json", "data/evaluate/ranks.parquet", "data/train/model.json"]
TITLE = "Top-1 accuracy in percent, with its 95 % interval; difference from full, and its p"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    params: Params
    """Of the project."""
    asked: Params
    """Those of all variants but for the variant: `params` with `changes`."""
    variants: list[str]
    changes: Changes
    """Of the parameters, for all variants alike."""

    def of(self, variant: str) -> Changes:
        """All changes that make a variant."""
        return {**self.changes, VARIANT: variant}


@dataclass(slots=True)
class Outcome:
    """How it went."""

    commits: dict[str, str] = field(default_factory=dict)
    """Of the experiment of each variant that is done."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a variant is not."""


def name_of(variant: str) -> str:
    """Name the experiment of a variant."""
    return f"ablation-{variant}"


def look(plan: Plan) -> Outcome:
    """Find the variants whose experiments had the code, the parameters and the data of today."""
    there = experiments.found()
    commits = {variant: there.get(name_of(variant)) for variant in plan.variants}
    return Outcome(
        {
            variant: commit
            for variant, commit in commits.items()
            if commit and experiments.is_done(commit, repro.PARAMS, plan.of(variant))
        }
    )


def ablate(plan: Plan, command: str) -> Outcome:
    """Run what is missing, one variant after another, and lay out all that is done as a table."""
    outcome = look(plan)
    missing = [variant for variant in plan.variants if variant not in outcome.commits]
    begun_with, took_s = experiments.state(), [_usual_s(plan)]
    for place, variant in enumerate(missing, start=1):
        if experiments.state() != begun_with:
            raise RuntimeError("code or parameters were changed meanwhile; run it again")
        left = repro.duration(sum(took_s) / len(took_s) * (len(missing) - place + 1))
        print(f"\nablation {place} of {len(missing)}: {variant}, about {left} left", flush=True)
        started = time.monotonic()
        try:
            experiments.run(
                name_of(variant),
                plan.of(variant),
                plan.params,
                target=TARGET,
                checkpoints=plan.params.paths.root / FOLDER / "checkpoints" / variant,
            )
            outcome.commits[variant] = experiments.found()[name_of(variant)]
        except RuntimeError as error:  # the others go on
            outcome.failures[variant] = explain(error)
        # What was measured counts for more than what was expected.
        took_s = [*took_s[place == 1 :], time.monotonic() - started]
    tabulate(plan, outcome, command)
    return outcome


def _usual_s(plan: Plan) -> float:
    """Say how long a variant may take, from the last time the line ran here, else by dvc.yaml."""
    stages = yaml.safe_load(Path("dvc.yaml").read_text())["stages"]
    usual_s = {name: float(stages[name]["meta"]["usual_s"]) for name in ("train", "evaluate")}
    for name, entry in journal.read(plan.params.paths.root / "journal.json").items():
        if name in usual_s and entry.took_s is not None and entry.error is None:
            usual_s[name] = entry.took_s
    share = plan.asked.train.steps / plan.params.train.steps
    return usual_s["train"] * share + usual_s["evaluate"]


def tabulate(plan: Plan, outcome: Outcome, command: str) -> None:
    """Fetch what all experiments of this budget made, write the table and its page, print it."""
    everything = replace(plan, variants=list(ablation.PAPER))
    commits = look(everything).commits | outcome.commits
    if not commits:
        return
    folder = plan.params.paths.root / FOLDER
    for variant, commit in commits.items():
        experiments.fetch(commit, MADE, folder / variant)
    train = plan.asked.train
    budget = {"steps": train.steps, "pairs a step": train.batch_pairs, "seed": train.seed}
    found = ablation.measure(folder, commits, budget, plan.params)
    ablation.write(folder, found, command)
    head, *body = ablation.rows(found)
    table = Table(*head, title=f"{TITLE} ({len(commits)} of {len(body)} variants)")
    for row in body:
        table.add_row(*row)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"report {folder / ablation.REPORT}; also dvc exp show", soft_wrap=True)


def main() -> int:
    """Run what is missing and print the table; 0 done, 1 a variant failed, 2 wrong use."""
    process.interrupt_on_signals()
    runlog.set_up_logging()
    words = _parse()
    try:
        plan = _plan(words)
    except ValueError as error:
        return fail(error, WRONG_USE)
    try:
        if words.dry_run:
            return _forecast(plan)
        with repro.alone(LOCK, what="an ablation"):
            return _run(plan, words)
    except (OSError, RuntimeError, ValueError) as error:
        return fail(error, FAILED)
    except DvcException as error:
        return fail(RuntimeError(str(error)), FAILED)
    except KeyboardInterrupt as error:
        return fail(error, STOPPED)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flows.ablate", description=__doc__)
    parser.add_argument("--variants", nargs="+", default=list(ablation.PAPER), metavar="NAME")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="changes",
        help="a parameter of all of them, such as train.steps=100; may be given again",
    )
    parser.add_argument("--table", action="store_true", help="run nothing; table of what is done")
    parser.add_argument("--dry-run", action="store_true", help="say what would run")
    return parser.parse_args()


def _plan(words: argparse.Namespace) -> Plan:
    params = parameters.load(repro.PARAMS)
    if unknown := [name for name in words.variants if name not in ablation.PAPER]:
        raise ValueError(
            f"variant {unknown[0]!r} is not known; choose from {', '.join(ablation.PAPER)}"
        )
    changes: Changes = {}
    for change in words.changes:
        name, equals, value = change.partition("=")
        if not equals or name == VARIANT:
            raise ValueError(f"--set {change}: must be NAME=VALUE, and the variant is --variants")
        changes[name] = value
    asked = parameters.check(experiments.apply(repro.PARAMS, changes), repro.PARAMS)
    return Plan(params, asked, list(dict.fromkeys(words.variants)), changes)


def _forecast(plan: Plan) -> int:
    done = look(plan).commits
    for variant in plan.variants:
        print(f"{name_of(variant)} {'is done' if variant in done else 'would run'}")
    missing = len(plan.variants) - len(done)
    print(f"about {repro.duration(missing * _usual_s(plan))}")
    return 0


def _run(plan: Plan, words: argparse.Namespace) -> int:
    command = _command(words)
    if words.table:
        outcome = look(plan)
        tabulate(plan, outcome, command)
    else:
        # Experiments take the rendered pairs from DVC's cache; here they are made if need be.
        if (code := repro.reproduce("render")) != 0:
            raise RuntimeError(f"dvc repro render ended with exit code {code}; see above")
        with server.background():
            outcome = ablate(plan, command)
    for variant, reason in outcome.failures.items():
        print(f"{name_of(variant)} failed: {reason}", file=sys.stderr)
    if words.table and not outcome.commits:
        raise RuntimeError(f"no experiment of this code and budget is done; run {command}")
    return FAILED if outcome.failures else 0


def _command(words: argparse.Namespace) -> str:
    """Write down the command that makes this table again."""
    chosen = [] if words.variants == list(ablation.PAPER) else ["--variants", *words.variants]
    changes = [word for change in words.changes for word in ("--set", shlex.quote(change))]
    return " ".join(["python -m flows.ablate", *chosen, *changes])


if __name__ == "__main__":
    sys.exit(main())
