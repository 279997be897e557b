"""What a person wants to know at the end: how good the model is, and where everything lies."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

from flows.orchestrator import show_table
from phalar.params import Params, Paths


def accuracy(paths: Paths) -> list[dict[str, Any]]:
    """Return a row for each source, protocol and K of the metrics."""
    metrics = json.loads((paths.evaluate / "metrics.json").read_text())
    return [
        {
            "source": source,
            "protocol": protocol,
            "K": int(candidates),
            "top-1 %": f"{100 * found['top1']:.1f}",
            "95 % interval": f"{100 * found['low']:.1f} – {100 * found['high']:.1f}",
            "chance %": f"{100 / int(candidates):.1f}",
            "trials": found["trials"],
        }
        for source, protocols in metrics["retrieval"].items()
        for protocol, sizes in protocols.items()
        for candidates, found in sizes.items()
    ]


def publish(paths: Paths) -> None:
    """Put the accuracy beside the run's record."""
    show_table("accuracy", accuracy(paths), "Accuracy on the frozen trials of the test split")


def show(params: Params, console: Console) -> None:
    """Print the accuracy, where things lie, and how to look at the records."""
    paths = params.paths
    rows = accuracy(paths)
    table = Table(*rows[0], title="Held-out accuracy", title_justify="left")
    for row in rows:
        table.add_row(*map(str, row.values()))
    console.print(table)
    places = {
        "report": paths.evaluate / "report.html",
        "model": paths.train / "model.safetensors",
        "lineage": paths.register / "lineage.json",
        "MLflow": f"mlflow ui --backend-store-uri {params.tracking.uri}",
        "Prefect": "python -m flows.server",
    }
    for name, place in places.items():
        console.print(f"{name:8} {place}", soft_wrap=True, highlight=False)
