"""Gate and champion: the rule, its record, promotion in one step, the way back, and withdrawal."""

import copy
import json
import multiprocessing
import os
import re
import shutil
import signal

import pyarrow as pa
import pytest
from registered import Project
from test_lineage import SOURCE

from phalar import cli, gate, registry, withdrawn
from phalar.evaluate import ranks, stage
from phalar.evaluate.compare import Comparison
from phalar.lineage import trace
from phalar.params import Promote
from phalar.registry import champion

RULE = Promote(protocol="paper", gain=0.0, loss=0.02)
SONGS = 30


def figure(difference: float, low: float, source: str = SOURCE, k: int = 8) -> Comparison:
    ends = {"low": low, "high": 2 * difference - low}
    share = {"a": 0.5 + difference, "b": 0.5, "difference": difference}
    return Comparison(source, "paper", k, **share, **ends, p=0.5, trials=9, songs=9)


@pytest.mark.parametrize(
    ("figures", "promoted", "why"),
    [
        ([figure(0.05, 0.01)], True, r"surely better: bands paper K = 8: 55\.0 % after 50\.0 %"),
        ([figure(0.05, 0.00)], False, "nowhere surely better by more than 0"),
        ([figure(0.05, 0.01), figure(-0.03, -0.1, "other")], False, "worse by more than 2 points"),
        ([figure(0.05, 0.01), figure(-0.01, -0.1, "other")], True, "surely better: bands"),
    ],
)
def test_rule(figures, promoted, why) -> None:
    found, text = gate.judge(figures, RULE)
    assert found == promoted
    assert re.search(why, text)


def test_largest_k_of_the_protocol_decides() -> None:
    small, large = figure(0.1, 0.1, k=8), figure(0.2, 0.1, k=64)
    assert gate.largest([large, small], "paper") == [large]
    assert gate.largest([large, small], "songs") == []


@pytest.fixture
def project(tmp_path, tiny_songs, monkeypatch) -> Project:
    made = Project(tmp_path / "project", tiny_songs)
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setattr(ranks, "question", lambda *_: "asked")
    return made


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_songs) -> Project:
    """A champion, and a challenger that is better."""
    made = Project(tmp_path_factory.mktemp("two") / "project", tiny_songs)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        patch.setenv("MLFLOW_TRACKING_URI", made.uri)
        patch.setattr(ranks, "question", lambda *_: "asked")
        for version, hits in ((1, 10), (2, 25)):
            answer(made, hits)
            made.register(version)
    return made


@pytest.fixture
def better(two, tmp_path, monkeypatch) -> Project:
    """The same with a registry of its own: no open connection is shared with a forked child."""
    made = copy.copy(two)
    made.folder = tmp_path
    shutil.copy(two.folder / "params.yaml", tmp_path)
    shutil.copy(two.folder / "mlflow.db", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    monkeypatch.setattr(ranks, "question", lambda *_: "asked")
    return made


def answer(project: Project, hits: int) -> None:
    """Write ranks as an evaluation does: a trial a song, the first so many of them hit."""
    row = {"source": SOURCE, "protocol": "paper", "candidates": 8, "asks": "anchor"}
    rows = [
        row | {"trial": n, "pair": n, "song": f"s{n}", "rank": int(n >= hits)} for n in range(SONGS)
    ]
    table = pa.Table.from_pylist(rows, ranks.SCHEMA)
    asked = table.replace_schema_metadata({ranks.QUESTION: b"asked"})
    ranks.write(project.paths.evaluate / ranks.RANKS, asked)


def aliases(project: Project) -> dict[str, str]:
    with registry.opened(project.uri) as client:
        found = client.get_registered_model("phalar").aliases
    return {alias: str(version) for alias, version in found.items()}


def decide(project: Project) -> gate.Decision:
    found = gate.run(project.params, project.paths)
    assert found is not None
    return found


def call(words: list[str], capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    printed = capsys.readouterr()
    return stop.value.code, printed.out, printed.err


def test_better_challenger_is_promoted_worse_is_not_and_the_way_back(project, capsys) -> None:
    answer(project, 10)
    assert project.register(1).champion == "1"
    assert aliases(project) == {"champion": "1"}
    assert gate.run(project.params, project.paths) is None

    answer(project, 25)
    assert project.register(2).champion == "1"
    assert aliases(project) == {"champion": "1", "challenger": "2"}
    with registry.opened(project.uri) as client:
        assert gate.is_due(client, "phalar")
    decision = decide(project)
    assert (decision.promoted, decision.champion, decision.challenger) == (True, "1", "2")
    assert decision.figures[0].difference == pytest.approx(0.5)
    assert aliases(project) == {"champion": "2"}
    with registry.opened(project.uri) as client:
        version = client.get_model_version("phalar", "2")
        told = json.loads(registry.load_document(version, gate.FILE))
    assert version.tags[gate.PROMOTED] == "true"
    assert told["why"] == decision.why == version.tags[gate.WHY]

    answer(project, 5)
    project.register(3)
    code, out, _ = call(["promote"], capsys)
    assert (code, "phalar/3 is not promoted: worse by more than 2 points" in out) == (0, True)
    assert aliases(project) == {"champion": "2", "challenger": "3"}
    with registry.opened(project.uri) as client:
        assert not gate.is_due(client, "phalar")

    code, out, _ = call(["rollback"], capsys)
    assert (code, out) == (0, "phalar@champion is version 1 again, after 2\n")
    code, _, err = call(["rollback"], capsys)
    assert (code, "version 1 is the first champion" in err) == (1, True)
    with registry.opened(project.uri) as client:
        client.set_registered_model_alias("phalar", "challenger", "2")
    assert "was rolled back" in decide(project).why
    assert aliases(project)["champion"] == "1"


def test_champion_without_kept_ranks_answers_anew(project, monkeypatch) -> None:
    project.register(1)
    answer(project, 20)
    project.register(2)
    asked = []

    def answers(model, params, paths):
        asked.append(model)
        answer(project, 3)
        return ranks.read(project.paths.evaluate)

    monkeypatch.setattr(stage, "answer", answers)
    assert decide(project).promoted
    assert len(asked) == 1


def test_dirty_first_model_is_no_champion(project, caplog) -> None:
    assert project.register(1, dirty=True).champion is None
    assert "phalar has no champion: version 1: the tree was dirty" in caplog.text
    assert not decide(project).promoted
    assert aliases(project) == {"challenger": "1"}


def promote_from_elsewhere(uri: str, version: str, gate_open, done) -> None:
    os.environ["MLFLOW_TRACKING_URI"] = uri
    with registry.opened(uri) as client:
        gate_open.wait()
        try:
            champion.promote(client, "phalar", version, instead_of="1")
            done.put(version)
        except ValueError as error:
            done.put(str(error))


def test_two_processes_that_promote_leave_one_champion(project) -> None:
    for seed in (1, 2, 3):
        project.register(seed)
    context = multiprocessing.get_context("spawn")
    gate_open, done = context.Event(), context.Queue()
    both = [
        context.Process(target=promote_from_elsewhere, args=(project.uri, v, gate_open, done))
        for v in ("2", "3")
    ]
    for process in both:
        process.start()
    gate_open.set()
    said = sorted((done.get(timeout=280) for _ in both), key=len)
    for process in both:
        process.join()
    assert said[0] in ("2", "3")
    assert f"the champion is version {said[0]} now" in said[1]
    assert aliases(project)["champion"] == said[0]


WRITES = ("set_model_version_tag", "set_registered_model_alias", "delete_registered_model_alias")


class Mortal:
    """A registry whose user is killed -9 after so many changes."""

    def __init__(self, client, changes: int) -> None:
        self._client, self._left = client, changes

    def __getattr__(self, name):
        if name in WRITES:
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self._left -= 1
        return getattr(self._client, name)


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        (0, {"champion": "1", "challenger": "2"}),
        (1, {"champion": "1", "challenger": "2"}),
        (2, {"champion": "1", "challenger": "2"}),
        (3, {"champion": "2", "challenger": "2"}),
    ],
)
def test_killed_promotion_leaves_a_champion_and_is_ended_by_the_next(better, changes, left) -> None:
    child = os.fork()
    if child == 0:
        try:
            with registry.opened(better.uri) as client:
                champion.promote(Mortal(client, changes), "phalar", "2", instead_of="1")
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert aliases(better) == left
    with registry.opened(better.uri) as client:
        assert gate.is_due(client, "phalar")
        kept = client.get_model_version("phalar", "2").tags.get(gate.WHY)
    gate.run(better.params, better.paths)
    assert aliases(better) == {"champion": "2"}
    with registry.opened(better.uri) as client:
        assert not gate.is_due(client, "phalar")
        tags = client.get_model_version("phalar", "2").tags
    assert tags[champion.BEFORE] == "1"
    # Whose alias had moved was decided about, and that decision stands.
    assert (tags.get(gate.WHY) == kept) == (left["champion"] == "2")


def test_withdrawal_names_and_marks_the_models(project, capsys) -> None:
    project.register(1)
    code, out, _ = call(["withdraw", "bands/train-0", "--reason", "the artist asked"], capsys)
    assert code == 0
    assert "phalar/1: must be trained again (3 train pairs)" in out
    entry = withdrawn.read(project.folder)["bands/train-0"]
    assert entry.reason == "the artist asked"
    with registry.opened(project.uri) as client:
        tags = client.get_model_version("phalar", "1").tags
    assert tags["withdrawn.bands/train-0"] == "train: the artist asked"
    assert tags[champion.RETRAIN] == "true"
    # Its successor need not be better: the champion must go.
    project.register(2)
    with registry.opened(project.uri) as client:
        client.delete_model_version_tag("phalar", "1", champion.RETRAIN)
    code, out, _ = call(["withdraw", "bands/test-0", "--reason", "asked", "--json"], capsys)
    told = json.loads(out)
    assert [m["verdict"] for m in told["models"]] == 2 * ["must be evaluated again"]
    with registry.opened(project.uri) as client:
        assert champion.RETRAIN not in client.get_model_version("phalar", "1").tags
    code, _, err = call(["withdraw", "bands/nothing", "--reason", "asked"], capsys)
    assert (code, "no such track" in err) == (1, True)


def test_successor_of_a_champion_that_must_go_need_not_be_better(project) -> None:
    answer(project, 20)
    project.register(1)
    with registry.opened(project.uri) as client:
        client.set_model_version_tag("phalar", "1", champion.RETRAIN, "true")
    answer(project, 15)
    project.register(2)
    decision = decide(project)
    assert (decision.promoted, decision.why) == (
        True,
        "champion 1 was trained on a withdrawn track",
    )


def test_lineage_up_finds_every_version_that_saw_a_track(project, capsys) -> None:
    first = project.register(1)
    files = {"track": "bands/train-1"}
    found = trace.find(trace.Wanted(**files), project.paths)
    assert [place.name for place in found.places] == ["data/render", "phalar/1"]
    assert found.places[1].run == first.run_id
    for place in found.places:
        (seen,) = place.sightings
        assert (seen.split, seen.pairs, seen.shards) == ("train", 3, {"train/000000.tar": 3})
    assert found.unknown == found.runs == []
    total = json.loads((project.paths.register / "lineage.json").read_text())["files"][-1]["sha256"]
    for words in (["--file", total[:12]], ["--licence", "cc0"], ["--track", "bands/train-1"]):
        code, out, _ = call(["lineage", *words, "--json"], capsys)
        assert (code, len(json.loads(out)["places"])) == (0, 2)
    code, out, _ = call(["lineage", "--artist", "nobody"], capsys)
    assert (code, out) == (0, "Not seen by any of 1 model versions.\n")
    code, _, err = call(["lineage", "--track", "train-1"], capsys)
    assert (code, "must be SOURCE/TRACK" in err) == (1, True)
    (project.folder / "mlartifacts" / first.run_id / "artifacts/version-1/tracks.parquet").unlink()
    found = trace.find(trace.Wanted(**files), project.paths)
    assert found.unknown[0].startswith("phalar/1: its tracks.parquet cannot be read")
