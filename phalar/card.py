"""The cards of a model and of its data, made from the records and never by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from phalar.lineage.record import Record
from phalar.tracks import SPLITS


def card(record: Record, metrics: Record, facts: Record) -> str:
    """Write a model card in Markdown.

    Parameters
    ----------
    record : dict
        The lineage, whole.
    metrics : dict
        As in metrics.json.
    facts : dict
        As in model.json.
    """
    model, run, git = record["model"], record["run"], record["git"]
    changes = ", with changes of code or parameters" if git["dirty"] else ""
    sections = [
        f"# {model['name']} {model['version']}",
        "A stem retrieval model: of two parts of music it says how well they fit in time and "
        "harmony. It embeds a clip as 512 complex numbers, in which a shift in time is a turn of "
        "phase (PHALAR, arXiv 2605.03929).",
        "## Use",
        "```python\n"
        "import phalar\n\n"
        f'model = phalar.load_model("{model["name"]}/{model["version"]}")\n'
        'phalar.score(model, "bass.wav", "drums.wav")  # higher is better\n'
        "```",
        "## Model",
        _list(
            {
                "variant": facts["model"]["variant"],
                "trained parameters": f"{facts['parameters']:,}",
                "weights, SHA-256": f"`{model['sha256']}`",
                "trained by": f"commit `{git['commit'] or 'unknown'}`{changes}",
                "MLflow run": f"`{run['id']}`",
            }
        ),
        "## Training data",
        "\n".join(_data(record)),
        "## Results",
        "Top-1 accuracy in percent on songs that training did not hear, with 95 % intervals from a "
        "bootstrap over songs.",
        "\n".join(_results(metrics)),
        "## Limits",
        "\n".join(f"- {limit}" for limit in LIMITS),
    ]
    return "\n\n".join(sections) + "\n"


MOST_NAMES = 50
"""More artists of a source are counted; lineage.json names them."""


def data_card(record: Record) -> str:
    """Write a card of the data behind a model in Markdown, from its lineage."""
    model, pairs = record["model"], record["pairs"]
    render = record["params"]["render"]
    seconds = ", ".join(f"{render['pair_s'][split]:g} s {split}" for split in SPLITS)
    shares = ", ".join(f"{name} {share:g}" for name, share in render["weights"].items())
    sections = [
        f"# Data of {model['name']} {model['version']}",
        "Pairs of complementary sub-mixes of the same moment of a song, mixed from its stems. No "
        "song is in two splits.",
        "\n".join(_data(record)),
        _list(
            {
                "length": seconds,
                "share of the training pairs": shares,
                "table of all pairs, SHA-256": f"`{pairs['sha256']}`",
                "shards": f"{len(record['shards'])}, {_bytes(record['shards'])}",
            }
        ),
        *(_source(record, source) for source in record["sources"]),
        "## Take-down",
        "Every track, with its files and their checksums, stands in `lineage.json` and "
        "`tracks.parquet`. `phalar withdraw SOURCE/TRACK --reason ...` leaves one out and names "
        "the models that learned from it.",
    ]
    return "\n\n".join(sections) + "\n"


def _source(record: Record, source: Record) -> str:
    """Write a section on one source: what it is, whose it is, and how much of it was used."""
    name = source["source"]
    tracks = [track for track in record["tracks"] if track["source"] == name]
    files = [file for file in record["files"] if file["source"] == name]
    songs = Counter(split for _, split in {(track["song"], track["split"]) for track in tracks})
    artists = {track["artist"] for track in tracks} - {None}
    facts = {
        "licence": source["licence"],
        "credits": source["credits"],
        "version": ", ".join(f"{key} {value}" for key, value in source["params"].items()),
        "files": f"{len(files)}, {_bytes(files)}",
        "songs": ", ".join(f"{songs[split]} {split}" for split in SPLITS),
        "pairs": f"{sum(track['pairs'] for track in tracks):,}",
    }
    if artists:
        few = len(artists) <= MOST_NAMES
        facts["artists"] = ", ".join(sorted(artists)) if few else f"{len(artists):,}"
    return f"## {name}\n\n{_list(facts)}"


def _bytes(entries: list[Record]) -> str:
    return f"{sum(entry['bytes'] for entry in entries):,} bytes"


LIMITS = (
    "It knows music like its training data, above; on other music its accuracy is not known.",
    "It hears mono sound up to 8 kHz, 0.5 to 10 s at a time; longer sound is cut.",
    "A score is comparable with other scores of this model version only.",
    "A high score says that two parts fit, not that they are of one recording or by one artist.",
    "It generates nothing, and tells nothing about who owns a recording.",
)


def _list(entries: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in entries.items())


def _data(record: Record) -> Iterator[str]:
    """Rows of the table of sources."""
    yield (
        "| source | " + " | ".join(f"{split} tracks" for split in SPLITS) + " | licence | credits |"
    )
    yield "|---|" + "---:|" * len(SPLITS) + "---|---|"
    for source in record["sources"]:
        name = source["source"]
        counts = [
            sum(t["source"] == name and t["split"] == split for t in record["tracks"])
            for split in SPLITS
        ]
        cells = [name, *map(str, counts), source["licence"], source["credits"]]
        yield "| " + " | ".join(cells) + " |"
    pairs = record["pairs"]["count"]
    yield ""
    yield "Pairs: " + ", ".join(f"{pairs[split]:,} {split}" for split in SPLITS) + "."


def _results(metrics: Record) -> Iterator[str]:
    """Rows of the table of results, the baselines beside each figure."""
    names = sorted(metrics["baselines"])
    yield f"| source | protocol | K | model | 95 % | {' | '.join(names)} | trials |"
    yield "|---|---|---:|---:|---:|" + "---:|" * len(names) + "---:|"
    for source, protocols in metrics["retrieval"].items():
        for protocol, sizes in protocols.items():
            for k, found in sizes.items():
                others = [metrics["baselines"][name][source][protocol][k] for name in names]
                cells = [
                    source,
                    protocol,
                    k,
                    _percent(found["top1"]),
                    f"{_percent(found['low'])} to {_percent(found['high'])}",
                    *(_percent(other["top1"]) for other in others),
                    str(found["trials"]),
                ]
                yield "| " + " | ".join(cells) + " |"


def _percent(share: Any) -> str:
    return f"{100 * share:.1f}"
