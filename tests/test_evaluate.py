"""The evaluate stage on tiny rendered songs: schema, determinism, and what each figure rests on."""

import csv
import json
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import phalar.evaluate
import phalar.render
from phalar import params
from phalar.evaluate import beats, hearing, probes, stage
from phalar.evaluate.measure import measure
from phalar.evaluate.retrieval import read_trials
from phalar.model import ModelConfig, build_model, save_model
from phalar.train.batches import read_pairs

ROOT = Path(__file__).parents[1]
SOURCE = "bands"
PAIRS = 8


@pytest.fixture(scope="module")
def line(tmp_path_factory, tiny_songs):
    """Parameters, and a project with rendered pairs, an untrained model and its evaluation."""
    root = tmp_path_factory.mktemp("line")
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["sources"] = [SOURCE]
    raw["render"] |= {
        "workers": 1,
        "pairs": {"train": 4, "valid": 2, "test": PAIRS},
        "pair_s": {"train": 2.0, "valid": 2.0, "test": 2.0},
        "trial_candidates": [2, 4],
    }
    raw["evaluate"] |= {"clip_s": 1.5, "bootstrap": 200, "sensitivity_pairs": 4}
    raw["evaluate"]["beats"] |= {"songs": 2, "seconds": 1.0}
    raw["evaluate"]["chords"] |= {"seconds": 6.0, "window_s": 1.0}
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    settings = params.load(root / "params.yaml")
    paths = params.Paths(root / "data")
    tiny_songs(paths.prepare(SOURCE), source=SOURCE, songs=5, seconds=6.0)
    phalar.render.run(settings, paths)
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1))
    save_model(model, paths.train)
    (paths.train / "history.csv").write_text("step,loss\n10,3.0\n20,2.5\n")
    (paths.train / "validation.csv").write_text("step,bands,mean\n20,0.5,0.5\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(beats, "TEMPI_BPM", (90, 120, 150))
        phalar.evaluate.run(settings, paths)
        yield settings, paths


def test_metrics_have_the_promised_form(line) -> None:
    _, paths = line
    metrics = json.loads((paths.evaluate / "metrics.json").read_text())
    tables = [metrics["retrieval"], *metrics["baselines"].values()]
    assert set(metrics["baselines"]) == {"chance", "loudness", "spectrum"}
    for table in tables:
        assert set(table[SOURCE]) == set(metrics["retrieval"][SOURCE]) >= {"paper", "songs"}
        for protocol in ("paper", "songs"):
            assert set(table[SOURCE][protocol]) == {"2", "4"}
            for found in table[SOURCE][protocol].values():
                assert set(found) == {"top1", "low", "high", "mrr", "trials"}
                assert 0 <= found["low"] <= found["top1"] <= found["high"] <= 1
                assert found["trials"] == PAIRS
    assert metrics["baselines"]["chance"][SOURCE]["paper"]["4"]["top1"] == 1 / 4


def test_metrics_say_what_whole_pieces_say(line) -> None:
    _, paths = line
    metrics = json.loads((paths.evaluate / "metrics.json").read_text())
    assert set(metrics) == {"retrieval", "baselines", "beats", "chords"}
    tracked, probed = metrics["beats"][SOURCE], metrics["chords"][SOURCE]
    assert set(tracked) == {"model", "flux", "fixed", "pieces", "songs"}
    assert set(tracked["model"]) == {"f1", "low", "high", "cmlt", "amlt"}
    assert (tracked["pieces"], tracked["songs"]) == (2, 2)
    assert set(probed) == {"recording", "piece", "recordings", "pieces", "windows", "left_out"}
    assert probed["windows"] == 5 * 12
    # All tiny songs are in C: whoever answers so is right.
    assert probed["piece"]["majority"]["accuracy"] == 1
    details = json.loads((paths.evaluate / "details.json").read_text())
    assert details[SOURCE]["paper"]["key"].keys() == {"0"}


def test_music_that_is_not_there_is_named_with_what_to_do(line) -> None:
    settings, paths = line
    known = probes.held_out(settings, paths)
    chosen = settings.evaluate
    asked = probes.for_beats(known | {"slakh2100": []}, chosen.beats, paths.root.parent)
    assert list(asked.pieces) == [SOURCE]
    assert "put GTZAN's sound and the beats" in asked.missing["GTZAN"]
    assert "no held-out track of it is here that says where" in asked.missing["slakh2100"]
    asked = probes.for_chords({SOURCE: known[SOURCE][:1]}, chosen.chords, paths.root.parent)
    assert asked.pieces == {}
    assert "https://zenodo.org/records/3371780" in asked.missing["GuitarSet"]
    assert asked.missing[SOURCE] == "its held-out tracks are of one piece, and none can be held out"
    text = (paths.evaluate / "report.html").read_text()
    for name in ("GTZAN", "GuitarSet"):
        assert f"{name} is not among them: " in text
    folder = chosen.beats.model_copy(update={"gtzan": "away"})
    with pytest.raises(ValueError, match="away: no such folder; put GTZAN's sound"):
        probes.for_beats(known, folder, paths.root.parent)


def test_probes_that_are_null_are_left_out(line) -> None:
    settings, paths = line
    none = settings.evaluate.model_copy(update={"beats": None, "chords": None})
    assert probes.probe(stage.load_model(paths.train), {}, none, paths.root) == ({}, {})


def test_second_run_writes_the_same_metrics(line) -> None:
    settings, paths = line
    names = ("metrics.json", "curve.csv", "curve.svg", "report.html")
    before = [(paths.evaluate / name).read_bytes() for name in names]
    phalar.evaluate.run(settings, paths)
    assert [(paths.evaluate / name).read_bytes() for name in names] == before


def test_pairs_are_heard_as_the_model_embeds_them(line, monkeypatch) -> None:
    settings, paths = line
    model = stage.load_model(paths.train)
    wanted = np.array([9, 1, 4])
    clip_s = settings.evaluate.clip_s
    heard = hearing.hear(model, paths.render, split="test", wanted=wanted, clip_s=clip_s)
    assert heard.pairs.tolist() == [1, 4, 9]
    (batch,) = read_pairs(paths.render, "test", clip_s=clip_s, batch_pairs=3, wanted=heard.pairs)
    for place, side in enumerate(heard.sides["model"]):
        z = model.embed(batch.to("cpu").wave[:, place], 16_000)
        np.testing.assert_allclose(side, torch.stack([z.real, z.imag], 1), atol=1e-5)
    monkeypatch.setattr(hearing.os, "sched_getaffinity", lambda _: {0})
    alone = hearing.hear(model, paths.render, split="test", wanted=wanted, clip_s=clip_s)
    np.testing.assert_array_equal(alone.sides["model"], heard.sides["model"])


def test_perfect_scorer_gets_all_and_the_curve_agrees_with_the_trials(line) -> None:
    settings, paths = line
    trials = read_trials(paths.render / "trials.parquet", "test")
    pairs = np.arange(2 * PAIRS)
    heard = hearing.Heard(pairs, {"made": (pairs[:, None], pairs[:, None])})
    songs = stage.read_songs(paths.render)
    found = measure(
        heard,
        trials,
        songs,
        settings.evaluate,
        score=lambda there, name: np.eye(len(there.pairs)) * (1 if name == "model" else -1),
    )
    assert found.retrieval[SOURCE]["songs"]["4"]["top1"] == 1
    assert found.baselines["spectrum"][SOURCE]["songs"]["4"]["top1"] == 0
    at_4 = {row["scorer"]: row["top1"] for row in found.curve if row["candidates"] == 4}
    assert at_4 == {"model": 1, "loudness": 0, "spectrum": 0}


def test_curve_holds_every_k_of_every_scorer(line) -> None:
    _, paths = line
    with (paths.evaluate / "curve.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["candidates"]) for row in rows] == list(range(1, PAIRS + 1))
    for name in ("bands paper", "bands paper spectrum", "bands songs loudness"):
        assert float(rows[0][name]) == 1
    assert [row["mean"] for row in rows] == [row["bands paper"] for row in rows]
    assert all(float(row["mean"]) >= float(after["mean"]) for row, after in pairwise(rows))


def test_clip_longer_than_the_pairs_is_refused(line) -> None:
    settings, paths = line
    longer = settings.model_copy(
        update={"evaluate": settings.evaluate.model_copy(update={"clip_s": 3.0})}
    )
    with pytest.raises(ValueError, match=r"evaluate\.clip_s = 3 s is more than the 2 s"):
        phalar.evaluate.run(longer, paths)


class Page(HTMLParser):
    """Collects the tags of a page, and complains where they do not close."""

    VOID = ("meta", "link", "br", "path", "use", "rect", "circle", "line")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_report_is_whole_and_needs_no_network(line) -> None:
    _, paths = line
    text = (paths.evaluate / "report.html").read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert page.links
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert "url(http" not in text
    # paper, songs; scores, ranks; six changes; loss, validation
    assert page.tags.count("svg") == 2 + 2 + 6 + 2
    # A dozen trials, each with a submix and three or four candidates.
    assert 12 * 4 <= page.tags.count("audio") <= 12 * 5
    assert len(text) < 10e6
