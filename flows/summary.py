"""What a person wants to know at the end: how good the model is, and where everything lies."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flows.orchestrator import show_table, show_text
from phalar.params import Params, Paths

TITLE = "Held-out songs, top-1 accuracy in percent, with its 95 % interval"


def accuracy(paths: Paths) -> list[dict[str, str]]:
    """Return a row for each source, protocol and K: the model's accuracy beside the baselines'."""
    metrics = json.loads((paths.evaluate / "metrics.json").read_text())
    return [
        {
            "source": source,
            "protocol": protocol,
            "K": candidates,
            "model": _percent(found["top1"]),
            "interval": f"{_percent(found['low'])}–{_percent(found['high'])}",
        }
        | {
            name: _percent(scores[source][protocol][candidates]["top1"])
            for name, scores in metrics["baselines"].items()
        }
        for source, protocols in metrics["retrieval"].items()
        for protocol, sizes in protocols.items()
        for candidates, found in sizes.items()
    ]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def publish(paths: Paths) -> None:
    """Put the accuracy, and links to what was made, beside the run's record."""
    show_table("accuracy", accuracy(paths), TITLE)
    show_text("results", links(paths), "Where the results of this run lie")


def links(paths: Paths) -> str:
    """List what an evaluation leaves, and the model it is of, as links in Markdown."""
    places = {
        "report": paths.evaluate / "report.html",
        "metrics": paths.evaluate / "metrics.json",
        "details": paths.evaluate / "details.json",
        "model": paths.train / "model.json",
    }
    return "\n".join(f"- [{name}]({place.resolve().as_uri()})" for name, place in places.items())


def show(params: Params, console: Console) -> None:
    """Print the accuracy, where things lie, and how to look at the records."""
    paths = params.paths
    rows = accuracy(paths)
    table = Table(*rows[0], title=TITLE, title_justify="left")
    for row in rows:
        table.add_row(*row.values())
    console.print(table)
    bin_folder = os.path.relpath(Path(sys.executable).parent)
    places = {
        "report": paths.evaluate / "report.html",
        "model": paths.train / "model.safetensors",
        "lineage": paths.register / "lineage.json",
        "MLflow": f"{bin_folder}/mlflow ui --backend-store-uri {params.tracking.uri}",
        "Prefect": f"{bin_folder}/python -m flows.server",
    }
    for name, place in places.items():
        console.print(f"{name:8} {place}", soft_wrap=True, highlight=False)
