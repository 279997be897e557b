"""The ablation table: what each part of the model brings, in the paper and on our trials."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from phalar.evaluate import ranks, templates
from phalar.evaluate.compare import Comparison, compare
from phalar.evaluate.measure import DIGITS
from phalar.params import Evaluate, Params

FULL = "full"
PROTOCOL = "paper"
METRICS, MODEL = "metrics.json", "model.json"
TABLE, MARKDOWN, REPORT = "table.json", "table.md", "report.html"
FILES = (METRICS, ranks.RANKS, MODEL)
"""What must lie in the folder of each variant."""
FIGURES = ("top1", "low", "high", "trials")
DIFFERENCE = ("difference", "low", "high", "p")
TEMPLATE = "ablation.html.jinja"


@dataclass(frozen=True, slots=True)
class Published:
    """What the paper says of a variant."""

    change: str
    """Against the full model."""
    top1: float
    """Percent, MoisesDB, protocol `paper`, K = 64, clips of 5 s."""
    parameters: int


PAPER = {
    FULL: Published("PHALAR as it is", 70.87, 2_293_104),
    "hermitian": Published("commutative score in training, too", 69.92, 2_293_104),
    "mel": Published("mel spectrogram instead of constant-Q", 69.21, 2_293_104),
    "psd": Published("similarity positive semi-definite", 67.85, 2_293_104),
    "cosine": Published("complex cosine, learned temperature", 61.93, 2_293_105),
    "magnitude": Published("magnitudes of the spectrum, no phases", 60.59, 1_442_160),
    "gap": Published("mean over time and frequency, no spectrum", 51.97, 684_400),
    "cocola": Published("another model: the COCOLA baseline", 41.84, 5_189_980),
}
"""Table of variants in arXiv 2605.03929, from the best to the worst."""


def measure(
    folder: Path, there: Collection[str], budget: dict[str, Any], params: Params
) -> dict[str, Any]:
    """Put the paper's table together with what the variants reach on the same trials here.

    Parameters
    ----------
    folder : Path
        With a folder `<variant>` for each that was evaluated, which holds `FILES`.
    there : collection of str
        The variants that were.
    budget : dict
        What all of them were given, for the reader.
    params : Params
        Resamples and seed of the paired bootstrap.

    Returns
    -------
    dict
        `budget`; `candidates` by source; `variants.<name>` with `change`, `paper` and `ours`, which
        has `parameters` and, in `sources` by name, `FIGURES` and `against_full` (`DIFFERENCE`).
        `ours` is empty for a variant that was not evaluated, and `against_full` is missing where
        the full model was not, and for the full model itself.

    Raises
    ------
    ValueError
        A file is missing or damaged, or two variants were asked different trials.
    """
    answers = {name: ranks.read(folder / name) for name in there}
    metrics = {name: _json(folder / name / METRICS)["retrieval"] for name in there}
    candidates = {
        source: max(map(int, protocols[PROTOCOL]))
        for found in metrics.values()
        for source, protocols in found.items()
        if PROTOCOL in protocols
    }
    variants: dict[str, Any] = {}
    for name, published in PAPER.items():
        ours: dict[str, Any] = {}
        if name in there:
            ours["parameters"] = _json(folder / name / MODEL)["parameters"]
            ours["sources"] = {
                source: {key: metrics[name][source][PROTOCOL][str(k)][key] for key in FIGURES}
                for source, k in candidates.items()
            }
        if name in there and name != FULL and FULL in there:
            for against in _against_full(answers[name], answers[FULL], params.evaluate):
                if against.candidates == candidates.get(against.source):
                    ours["sources"][against.source]["against_full"] = {
                        key: round(getattr(against, key), DIGITS) for key in DIFFERENCE
                    }
        paper = {"top1": published.top1, "parameters": published.parameters}
        variants[name] = {"change": published.change, "paper": paper, "ours": ours}
    return {"budget": budget, "candidates": candidates, "variants": variants}


def _against_full(own: pa.Table, full: pa.Table, settings: Evaluate) -> list[Comparison]:
    found = compare(own, full, resamples=settings.bootstrap, seed=settings.seed)
    return [one for one in found if one.protocol == PROTOCOL]


def rows(table: dict[str, Any]) -> list[list[str]]:
    """Lay what `measure` found out as text: a row of headings, then a row a variant."""
    sources = table["candidates"]
    heads = [f"{source}, K = {k}" for source, k in sources.items()]
    laid = [["variant", "parameters", "paper", *heads]]
    for name, variant in table["variants"].items():
        ours = variant["ours"]
        cells = [_cell(ours["sources"][source]) if ours else "not run" for source in sources]
        parameters = ours.get("parameters", variant["paper"]["parameters"])
        laid.append([name, f"{parameters:,}", f"{variant['paper']['top1']:.2f}", *cells])
    return laid


def _cell(found: dict[str, Any]) -> str:
    interval = f"{100 * found['low']:.1f} to {100 * found['high']:.1f}"
    text = f"{100 * found['top1']:.1f} ({interval})"
    if against := found.get("against_full"):
        text += f"; {100 * against['difference']:+.1f}, p {templates.p_value(against['p'])}"
    return text


def markdown(laid: Iterable[list[str]]) -> str:
    """Write rows as a table of Markdown."""
    head, *body = laid
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def write(folder: Path, table: dict[str, Any], command: str) -> None:
    """Write what `measure` found: as JSON, as Markdown, and as a page in the report's style."""
    texts = {
        TABLE: json.dumps({**table, "command": command}, indent=1) + "\n",
        MARKDOWN: markdown(rows(table)),
        REPORT: templates.fill(TEMPLATE, **table, made_by=command),
    }
    for name, text in texts.items():
        aside = folder / f"{name}.part"
        aside.write_text(text, encoding="utf-8")
        aside.replace(folder / name)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: missing or damaged ({error}); evaluate again") from error
