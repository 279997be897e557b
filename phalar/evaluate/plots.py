"""Plots as SVG whose colours are filled in last: a page's own, light or dark, or those of paper."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from phalar.evaluate.measure import MODEL, Group, Measured
from phalar.evaluate.retrieval import score_trials

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ON_WHITE = {
    "ink": "#333333",
    "faint": "#dddddd",
    "model": "#0b62c4",
    "spectrum": "#b25a00",
    "loudness": "#7a7a7a",
    "chance": "#a0a0a0",
}
"""What each role is drawn in where there is no page to say it."""

# Matplotlib takes no names of roles, so each is drawn in a colour that nothing else has.
STAND_IN = {role: f"#0{number}0{number}0{number}" for number, role in enumerate(ON_WHITE, start=1)}

SIZE_INCHES = (4.4, 3.0)
DASHES = {MODEL: "-", "spectrum": "-", "loudness": "-", "chance": (0, (2, 2))}
LINES = ("-", "--", ":", "-.")
MARKERS = ("^", "s", "D")
BINS = 40
THROUGH_ZERO = ("time shift", "pitch shift", "gain")
"""Changes of which an amount of zero is none."""
TICKS = tuple(2**power for power in range(0, 21))


def accuracy_over_candidates(
    measured: Measured, paper: dict[str, dict[int, float]]
) -> dict[str, str]:
    """Draw accuracy over K for each source and protocol whose curve is known, by title.

    Lines are exact expectations over all draws, points are the frozen trials with their intervals;
    what the paper reports (top-1 % by data set and K) stands beside its own protocol.
    """
    panels = dict.fromkeys((row["source"], row["protocol"]) for row in measured.curve)

    def panel(source: str, protocol: str, ax: Axes) -> None:
        _curves(measured, source, protocol, ax)
        if protocol == "paper":
            _paper(paper, ax)

    return {", ".join(key): _draw([partial(panel, *key)]) for key in panels}


def overview(measured: Measured) -> str:
    """Draw all of `accuracy_over_candidates` side by side."""
    panels = dict.fromkeys((row["source"], row["protocol"]) for row in measured.curve)
    return _draw([partial(_curves, measured, *key, title=", ".join(key)) for key in panels])


def score_distributions(groups: list[Group], songs: dict[int, str]) -> dict[str, str]:
    """Draw how the model scores the right stem, other moments of its song, and other songs."""
    found = {}
    for group in _of_all(groups):
        place = np.unique([songs[pair] for pair in group.pairs.tolist()], return_inverse=True)[1]
        same = place[:, None] == place
        own = np.eye(len(place), dtype=bool)
        kinds = {
            "right stem": group.scores[own],
            "same song": group.scores[same & ~own],
            "other song": group.scores[~same],
        }
        found[group.trials[0].source] = _draw([partial(_histograms, kinds)])
    return found


def rank_histogram(groups: list[Group]) -> dict[str, str]:
    """Draw where among the candidates the right stem comes out, at the largest K."""
    found = {}
    for group in _of_all(groups):
        trials = group.trials[-1]
        ranks = score_trials(group.scores, trials)
        found[f"{trials.source}, {trials.protocol}, K = {trials.candidates}"] = _draw(
            [partial(_ranks, ranks, trials.candidates)]
        )
    return found


def sensitivities(rows: list[dict[str, Any]], units: dict[str, str]) -> dict[str, str]:
    """Draw accuracy over how much of each change is done, a line a source, by change."""
    return {
        change: _draw([partial(_sensitivity, rows, change, unit)]) for change, unit in units.items()
    }


def _of_all(groups: list[Group]) -> list[Group]:
    """One group of each source: pairs drawn as the paper does where there are, else the first."""
    chosen: dict[str, Group] = {}
    for group in groups:
        first = group.trials[0]
        if first.source not in chosen or first.protocol == "paper":
            chosen[first.source] = group
    return list(chosen.values())


def training(
    history: list[dict[str, float]], validations: list[dict[str, float]]
) -> dict[str, str]:
    """Draw the loss of a training, and the accuracy of its validations, over the steps, by title.

    Parameters
    ----------
    history : list of dict
        Rows with `step` and `loss`.
    validations : list of dict
        Rows with `step` and an accuracy (0..1) for each source and their mean.
    """
    return {
        "loss": _draw([partial(_loss, history)]),
        "validation": _draw([partial(_validations, validations)]),
    }


def on_white(svg: str) -> str:
    """Fill in colours for white ground."""
    for role, colour in STAND_IN.items():
        svg = svg.replace(colour, ON_WHITE[role])
    return svg


def in_page(svg: str) -> str:
    """Leave the colours to the style sheet of the page: `var(--ink)` and so on."""
    for role, colour in STAND_IN.items():
        svg = svg.replace(colour, f"var(--{role})")
    # What stands before the element is for files.
    return svg[svg.index("<svg") :]


def _curves(measured: Measured, source: str, protocol: str, ax: Axes, *, title: str = "") -> None:
    rows = [r for r in measured.curve if (r["source"], r["protocol"]) == (source, protocol)]
    for scorer in (MODEL, *measured.baselines):
        own = [row for row in rows if row["scorer"] == scorer]
        ks = [row["candidates"] for row in own] or sorted({row["candidates"] for row in rows})
        top1 = [100 * row["top1"] for row in own] or [100 / k for k in ks]
        ax.plot(ks, top1, linestyle=DASHES[scorer], color=STAND_IN[scorer], label=scorer)
    for k, trial in measured.retrieval[source][protocol].items():
        low, high = 100 * trial["low"], 100 * trial["high"]
        ax.plot([int(k)] * 2, [low, high], color=STAND_IN[MODEL], linewidth=1)
        ax.plot(int(k), 100 * trial["top1"], "o", color=STAND_IN[MODEL], markersize=4)
    most = max(row["candidates"] for row in rows)
    ax.set_xscale("log", base=2)
    ax.set_xticks([tick for tick in TICKS if tick <= most], [str(t) for t in TICKS if t <= most])
    ax.set_ylim(0, 102)
    ax.set_xlabel("candidates K")
    ax.set_ylabel("top-1 accuracy, %")
    ax.set_title(title)
    ax.legend(frameon=False, labelcolor=STAND_IN["ink"])


def _paper(points: dict[str, dict[int, float]], ax: Axes) -> None:
    for marker, sizes in zip(MARKERS, points.values(), strict=False):
        top1 = list(sizes.values())
        ax.plot(list(sizes), top1, marker, color=STAND_IN["chance"], fillstyle="none", markersize=5)


def _histograms(kinds: dict[str, Any], ax: Axes) -> None:
    every = np.concatenate(list(kinds.values()))
    edges = np.linspace(every.min(), every.max(), BINS + 1)
    for (label, scores), role in zip(kinds.items(), ("model", "spectrum", "loudness"), strict=True):
        if len(scores):
            shares = 100 * np.histogram(scores, edges)[0] / len(scores)
            ax.stairs(shares, edges, color=STAND_IN[role], label=label)
    ax.set_xlabel("score")
    ax.set_ylabel("share, %")
    ax.legend(frameon=False, labelcolor=STAND_IN["ink"])


def _ranks(ranks: Any, candidates: int, ax: Axes) -> None:
    shares = 100 * np.bincount(ranks, minlength=candidates) / len(ranks)
    ax.bar(np.arange(1, candidates + 1), shares, color=STAND_IN[MODEL])
    ax.axhline(
        100 / candidates, color=STAND_IN["chance"], linestyle=DASHES["chance"], label="chance"
    )
    ax.set_xlabel("place of the right stem")
    ax.set_ylabel("trials, %")
    ax.legend(frameon=False, labelcolor=STAND_IN["ink"])


def _sensitivity(rows: list[dict[str, Any]], change: str, unit: str, ax: Axes) -> None:
    for source, dashes in zip(dict.fromkeys(row["source"] for row in rows), cycle(LINES)):
        own = [row for row in rows if row["source"] == source]
        same = [row for row in own if row["change"] == change]
        # Nothing done is a point of the curves that begin or pass there.
        none = [row for row in own if row["change"] == "none"] if change in THROUGH_ZERO else []
        points = sorted([*same, *none], key=lambda row: float(row["amount"]))
        xs = [float(row["amount"]) for row in points]
        low, high = ([100 * float(row[end]) for row in points] for end in ("low", "high"))
        ax.fill_between(xs, low, high, color=STAND_IN[MODEL], alpha=0.12, linewidth=0)
        _line(ax, xs, [float(row["top1"]) for row in points], dashes, source)
    ax.set_ylim(0, 102)
    ax.set_xlabel(f"{change}, {unit}")
    ax.set_ylabel("top-1 accuracy, %")
    if ax.lines:
        ax.legend(frameon=False, labelcolor=STAND_IN["ink"])


def _loss(history: list[dict[str, float]], ax: Axes) -> None:
    steps, losses = [row["step"] for row in history], [row["loss"] for row in history]
    ax.plot(steps, losses, color=STAND_IN[MODEL])
    ax.set_xlabel("step")
    ax.set_ylabel("training loss")


def _validations(rows: list[dict[str, float]], ax: Axes) -> None:
    steps = [row["step"] for row in rows]
    for name, dashes in zip((key for key in rows[0] if key != "step"), cycle(LINES)):
        _line(ax, steps, [row[name] for row in rows], dashes, name)
    ax.set_ylim(0, 102)
    ax.set_xlabel("step")
    ax.set_ylabel("validation top-1, %")
    ax.legend(frameon=False, labelcolor=STAND_IN["ink"])


def _line(ax: Axes, xs: list[float], fractions: list[float], dashes: str, label: str) -> None:
    """Draw the model's accuracy, in percent; sources are told apart by their dashes."""
    values = [100 * fraction for fraction in fractions]
    look: Any = {"linestyle": dashes, "marker": "o", "markersize": 3, "color": STAND_IN[MODEL]}
    ax.plot(xs, values, label=label, **look)


def _draw(panels: list[Callable[[Axes], Any]]) -> str:
    """Draw panels side by side in the style of all plots; the same figures give the same bytes."""
    # Imported late: half a second that no other stage needs.
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    ink, faint = STAND_IN["ink"], STAND_IN["faint"]
    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": "phalar",
        "font.size": 9,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": faint,
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": faint,
        "grid.linewidth": 0.5,
        "xtick.color": ink,
        "ytick.color": ink,
    }
    with matplotlib.rc_context(style):
        width, height = SIZE_INCHES
        figure = Figure((width * len(panels), height), layout="constrained")
        FigureCanvasSVG(figure)
        for ax, panel in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            panel(ax)
            ax.minorticks_off()
        target = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(target, format="svg", transparent=True, metadata=nothing)
    return target.getvalue()
