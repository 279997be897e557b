"""Draw the chain behind a model: a tree for the terminal, Mermaid for a page, SVG for a file."""

from __future__ import annotations

from collections import Counter
from html import escape

from rich.tree import Tree

from phalar.lineage.record import Record
from phalar.tracks import SPLITS

SHOWN = 3
"""Tracks of each source that a tree names; JSON names all."""

Chart = tuple[dict[str, list[str]], list[tuple[str, str]]]
"""Lines of text in each box, by name, in order; and which box leads to which."""

LETTER_PX, LINE_PX, PAD_PX, GAP_PX = 7.2, 18, 10, 44


def tree(record: Record) -> Tree:
    """Draw the chain from the model down to the source files, for a terminal."""
    dvc = record["dvc"]
    root = Tree(", ".join(_model(record)))
    below = root.add(" ".join(_run(record)))
    below = below.add(", ".join(_commit(record)))
    below = below.add(f"{_params(record)} values in params.yaml")
    below = below.add(f"dvc.lock sha256 {(dvc['lock_sha256'] or 'none')[:12]}")
    for out in dvc["outs"]:
        note = "" if out["agrees"] else " (not what is on disk)"
        below.add(f"{out['stage']}: {out['path']} md5 {out['md5']}{note}")
    pairs = below.add(f"{record['pairs']['file']} sha256 {record['pairs']['sha256'][:12]}")
    for split, count in record["pairs"]["count"].items():
        pairs.add(f"{split}: {count:,} pairs in {len(_shards(record, split))} shards")
    for source in record["sources"]:
        _add_source(pairs, record, source)
    return root


def _add_source(parent: Tree, record: Record, source: Record) -> None:
    """Draw one source: its tracks by split, a few by name, and its licence."""
    name = source["source"]
    tracks = _tracks(record, name)
    files = {file["sha256"]: file for file in record["files"] if file["source"] == name}
    branch = parent.add(f"{name}: {_shares(tracks)}, {source['licence']}")
    for track in tracks[:SHOWN]:
        leaf = branch.add(f"{track['track']} ({track['split']}, {track['pairs']} pairs)")
        for total in track["files"]:
            leaf.add(f"{files[total]['url']} sha256 {total[:12]}")
    if len(tracks) > SHOWN:
        branch.add(f"... {len(tracks) - SHOWN} more tracks, {len(files)} files in all; see --json")


def mermaid(record: Record) -> str:
    """Draw the chain as a Mermaid flowchart, which GitHub and MLflow's pages show as a picture."""
    boxes, arrows = chart(record)
    lines = ["flowchart LR"]
    for name, text in boxes.items():
        quoted = "<br/>".join(escape(line).replace("&#x27;", "'") for line in text)
        lines.append(f'  {name}["{quoted}"]')
    lines += [f"  {start} --> {end}" for start, end in arrows]
    return "\n".join(lines) + "\n"


def svg(record: Record) -> str:
    """Draw the chain as one SVG: a column for each link, a box for each thing."""
    boxes, arrows = chart(record)
    column: dict[str, int] = {}
    for name in boxes:
        column[name] = max((column[a] + 1 for a, b in arrows if b == name), default=0)
    width = {name: PAD_PX * 2 + LETTER_PX * max(map(len, text)) for name, text in boxes.items()}
    height = {name: PAD_PX * 2 + LINE_PX * len(text) for name, text in boxes.items()}
    x_px: dict[int, float] = {}
    right = GAP_PX / 2
    for place in sorted(set(column.values())):
        x_px[place] = right
        right += GAP_PX + max(width[name] for name in boxes if column[name] == place)
    bottom: Counter[int] = Counter()
    top: dict[str, float] = {}
    for name in boxes:
        top[name] = GAP_PX / 2 + bottom[column[name]]
        bottom[column[name]] += height[name] + GAP_PX // 2
    parts = []
    for a, b in arrows:
        x1, y1 = x_px[column[a]] + width[a], top[a] + height[a] / 2
        x2, y2 = x_px[column[b]], top[b] + height[b] / 2
        bend = f"C{x1 + 22:.0f},{y1:.0f} {x2 - 22:.0f},{y2:.0f}"
        parts.append(f'<path d="M{x1:.0f},{y1:.0f} {bend} {x2:.0f},{y2:.0f}"/>')
    for name, text in boxes.items():
        x, y = x_px[column[name]], top[name]
        size = f'width="{width[name]:.0f}" height="{height[name]:.0f}" rx="4"'
        parts.append(f'<rect x="{x:.0f}" y="{y:.0f}" {size}/>')
        for row, line in enumerate(text):
            down = y + PAD_PX + LINE_PX * (row + 0.75)
            parts.append(f'<text x="{x + PAD_PX:.0f}" y="{down:.0f}">{escape(line)}</text>')
    tall = max(bottom.values()) + GAP_PX / 2
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {right:.0f} {tall:.0f}">'
        "<style>rect{fill:#fff;stroke:#667}path{fill:none;stroke:#667}"
        "text{font:12px ui-monospace,monospace;fill:#223}</style>" + "".join(parts) + "</svg>\n"
    )


def chart(record: Record) -> Chart:
    """List the boxes of a drawing, each after those that lead to it, and the arrows."""
    pairs, lock = record["pairs"], record["dvc"]["lock_sha256"]
    boxes = {
        "model": _model(record),
        "run": _run(record),
        "commit": _commit(record),
        "params": ["params.yaml", f"{_params(record)} values"],
        "lock": ["dvc.lock", f"sha256 {(lock or 'none')[:12]}"],
    }
    arrows = [("model", "run"), ("run", "commit"), ("commit", "params"), ("commit", "lock")]
    for split, count in pairs["count"].items():
        boxes[split] = [f"{len(_shards(record, split))} {split} shards", f"{count:,} pairs"]
        arrows.append(("lock", split))
    boxes["pairs"] = [pairs["file"], f"sha256 {pairs['sha256'][:12]}"]
    arrows += [(split, "pairs") for split in pairs["count"]]
    for place, source in enumerate(record["sources"]):
        name = source["source"]
        files = [file for file in record["files"] if file["source"] == name]
        boxes[f"tracks{place}"] = [name, *_shares(_tracks(record, name)).split(", ", 1)]
        boxes[f"files{place}"] = [
            f"{len(files)} files",
            f"{sum(file['bytes'] for file in files):,} bytes",
            source["licence"],
        ]
        arrows += [("pairs", f"tracks{place}"), (f"tracks{place}", f"files{place}")]
    return boxes, arrows


def _model(record: Record) -> list[str]:
    model = record["model"]
    return [f"model {model['name']} version {model['version']}", f"sha256 {model['sha256'][:12]}"]


def _run(record: Record) -> list[str]:
    run = record["run"]
    return [f"MLflow run {run['id']}", f"(experiment {run['experiment']})"]


def _commit(record: Record) -> list[str]:
    git = record["git"]
    state = "with changes" if git["dirty"] else "clean"
    return [f"git commit {git['commit'][:12]}", state] if git["commit"] else ["no git commit"]


def _params(record: Record) -> int:
    """Count the values of params.yaml."""

    def leaves(value: object) -> int:
        return sum(map(leaves, value.values())) if isinstance(value, dict) else 1

    return leaves(record["params"])


def _shards(record: Record, split: str) -> list[Record]:
    return [shard for shard in record["shards"] if shard["split"] == split]


def _tracks(record: Record, source: str) -> list[Record]:
    return [track for track in record["tracks"] if track["source"] == source]


def _shares(tracks: list[Record]) -> str:
    splits = Counter(track["split"] for track in tracks)
    return f"{len(tracks)} tracks (" + ", ".join(f"{s} {splits[s]}" for s in SPLITS) + ")"
