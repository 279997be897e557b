"""The registry: gate, one version a model, lineage and card, and the model that comes back."""

import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from test_lineage import SOURCE, make_project

import phalar
from phalar import calibration, params, register, runlog
from phalar.lineage import record
from phalar.model import ModelConfig, build_model, save_model

ROOT = Path(__file__).parents[1]
RATE_HZ = 16_000


def figures(top1: float, low: float) -> dict:
    """Metrics of one source, as evaluation writes them."""

    def at(share: float, end: float) -> dict:
        value = {"top1": share, "low": end, "high": share, "mrr": share, "trials": 6}
        return {SOURCE: {"paper": {"8": value}}}

    chance = at(1 / 8, 1 / 8)
    return {"retrieval": at(top1, low), "baselines": {"chance": chance, "spectrum": at(0.2, 0.1)}}


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> params.Params:
    """The project's own parameters, with one source and a registry aside."""
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    raw["sources"] = [SOURCE]
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    return params.load(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_songs, settings):
    """A project with an untrained model, registered twice."""
    root = tmp_path_factory.mktemp("project")
    paths = make_project(root, tiny_songs)
    model = build_model(ModelConfig(), generator=torch.Generator().manual_seed(1))
    save_model(model, paths.train)
    (paths.render / "trials.parquet").write_bytes(b"trials")
    facts = {
        "run_id": None,
        "experiment": "phalar",
        "git_commit": "c" * 40,
        "git_dirty": True,
        "params_sha256": "a" * 64,
        "data_sha256": runlog.data_digest(paths.render),
    }
    (paths.train / "run.json").write_text(json.dumps(facts))
    paths.evaluate.mkdir()
    sha256 = json.loads((paths.train / "model.json").read_text())["sha256"]
    calibration.write(calibration.measure([np.linspace(0, 1, 99)], sha256), paths.evaluate)
    (paths.evaluate / "metrics.json").write_text(json.dumps(figures(0.7, 0.6)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
        first = register.run(settings, paths)
        facts["run_id"] = first.run_id
        (paths.train / "run.json").write_text(json.dumps(facts))
        yield paths, first, register.run(settings, paths)


def test_a_registry_is_used_for_one_call_alone(made, settings, tmp_path, monkeypatch) -> None:
    import mlflow

    paths, first, _ = made
    here = os.environ["MLFLOW_TRACKING_URI"]
    aside = f"sqlite:///{tmp_path}/other.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", aside)
    elsewhere = register.run(settings, paths)
    assert (elsewhere.new, os.environ["MLFLOW_TRACKING_URI"]) == (True, aside)
    assert mlflow.get_tracking_uri() == aside
    monkeypatch.setenv("MLFLOW_TRACKING_URI", here)
    again = register.run(settings, paths)
    assert (again.new, again.run_id, mlflow.get_tracking_uri()) == (False, first.run_id, here)


def test_same_model_gets_no_second_version(made) -> None:
    _, first, second = made
    assert (first.version, first.new) == ("1", True)
    assert (second.version, second.new, second.run_id) == ("1", False, first.run_id)


def test_registered_model_embeds_as_the_one_on_disk(made) -> None:
    import mlflow

    paths, _, _ = made
    clips = np.random.default_rng(1).normal(0, 0.1, (2, 3 * RATE_HZ)).astype(np.float32)
    served = mlflow.pyfunc.load_model("models:/phalar@challenger").predict(clips)
    model = phalar.load_model(paths.train)
    z = model.embed(clips, RATE_HZ)
    np.testing.assert_array_equal(served["embedding"], torch.stack([z.real, z.imag], 1).numpy())
    assert served["score"][0, 1] == pytest.approx(float(model.score(z[0], z[1])), abs=1e-6)
    assert served["score"][0, 1] == pytest.approx(served["score"][1, 0], abs=1e-6)


def test_registered_model_hears_files_in_base64(made) -> None:
    """Of any rate, number of channels and length, behind the arrays."""
    import mlflow

    paths, _, _ = made
    rng = np.random.default_rng(2)
    clip = rng.normal(0, 0.1, (1, 2 * RATE_HZ)).astype(np.float32)
    file, rate_hz = rng.uniform(-0.5, 0.5, (3 * 44_100, 2)), 44_100
    flac = io.BytesIO()
    soundfile.write(flac, file, rate_hz, format="FLAC", subtype="PCM_24")
    sent = {"files": [base64.b64encode(flac.getvalue()).decode()]}
    served = mlflow.pyfunc.load_model("models:/phalar@challenger")
    model = phalar.load_model(paths.train)
    z = [model.embed(clip[0], RATE_HZ), phalar.embed(model, file.T, sample_rate=rate_hz)]
    expected = np.stack([np.stack([each.real, each.imag]) for each in z])
    both = served.predict(clip, params=sent)
    np.testing.assert_allclose(both["embedding"], expected, atol=1e-5)
    assert both["score"][0, 1] == pytest.approx(float(model.score(*z)), abs=1e-4)
    alone = served.predict(np.zeros((1, 0), np.float32), params=sent)
    np.testing.assert_array_equal(alone["embedding"], both["embedding"][1:])
    for words, why in (
        ({"files": ["no base64!"]}, r"files\[0\]: .*; must be a sound file in base64"),
        ({"files": [base64.b64encode(b"no sound").decode()]}, r"files\[0\]: sound in memory"),
        ({}, "nothing to hear: give samples as `inputs`, or `files`"),
    ):
        with pytest.raises(ValueError, match=why):
            served.predict(np.zeros((1, 0), np.float32), params=words)


@pytest.mark.parametrize("name", ["phalar", "phalar@challenger", "phalar/1", "models:/phalar/1"])
def test_model_loads_by_its_registered_name(made, name) -> None:
    paths, _, _ = made
    models = [phalar.load_model(each) for each in (name, paths.train)]
    weights = [model.state_dict() for model in models]
    assert [phalar.percentile(model, 0.25) for model in models] == [pytest.approx(25)] * 2
    assert all(torch.equal(weights[0][key], value) for key, value in weights[1].items())


def test_unknown_name_says_where_it_was_looked_for(made) -> None:
    with pytest.raises(ConnectionError, match=r"MLflow \(sqlite:.*see MLFLOW_TRACKING_URI"):
        phalar.load_model("phalar@nobody")


def test_version_can_be_searched_by_its_origin(made) -> None:
    import mlflow

    paths, first, _ = made
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    version = client.get_model_version_by_alias("phalar", "challenger")
    facts = json.loads((paths.train / "model.json").read_text())
    expected = {
        "model.sha256": facts["sha256"],
        "git.commit": "c" * 40,
        "git.dirty": "true",
        "licence.bands": "CC0-1.0",
        "test/bands/paper/8/top1": "0.7",
    }
    assert expected.items() <= version.tags.items()
    run = client.get_run(first.run_id)
    assert run.data.metrics["test/bands/paper/8/top1"] == 0.7


def test_signature_leaves_the_length_of_sound_open(made) -> None:
    import mlflow

    info = mlflow.models.get_model_info("models:/phalar/1")
    assert info.signature.inputs.inputs[0].shape == (-1, -1)
    assert {spec.name for spec in info.signature.outputs.inputs} == {"embedding", "score"}
    requirements = Path(mlflow.pyfunc.get_model_dependencies("models:/phalar/1")).read_text()
    assert re.search(r"^torch==\d", requirements, re.MULTILINE)


def test_lineage_starts_at_the_version(made) -> None:
    paths, first, _ = made
    found = record.read(str(paths.register / "lineage.json"))
    assert (found["model"]["name"], found["model"]["version"]) == ("phalar", "1")
    assert found["run"] == {
        "id": first.run_id,
        "experiment": "phalar",
        "data_sha256": runlog.data_digest(paths.render),
    }
    assert found["git"] == {"commit": "c" * 40, "dirty": True}
    assert record.read("phalar@challenger") == found == record.read("phalar")


def test_card_holds_the_records(made) -> None:
    paths, _, _ = made
    text = (paths.register / "card.md").read_text()
    for words in (
        "# phalar 1\n",
        "| bands | 2 | 2 | 2 | CC0-1.0 | A test |",
        "Pairs: 6 train, 6 valid, 6 test.",
        "| bands | paper | 8 | 70.0 | 60.0 to 70.0 | 12.5 | 20.0 | 6 |",
        f"commit `{'c' * 40}`, with changes of code or parameters",
    ):
        assert words in text


def test_card_of_the_data_holds_the_records(made) -> None:
    paths, _, _ = made
    text = (paths.register / "data.md").read_text()
    for words in (
        "# Data of phalar 1\n",
        "| bands | 2 | 2 | 2 | CC0-1.0 | A test |",
        "## bands\n\n- licence: CC0-1.0\n- credits: A test\n- version: version 1\n",
        "- files: 6, 6 bytes\n",
        "- songs: 2 train, 2 valid, 2 test\n- pairs: 18",
    ):
        assert words in text


def test_gate_refuses_what_may_be_chance() -> None:
    register.check_gate(figures(0.7, 0.126), 1.0)
    register.check_gate(figures(0.0, 0.0), 0.0)
    with pytest.raises(
        ValueError, match=r"gate: bands, paper, K = 8: .* \(30\.00 %\) begins at 12\."
    ):
        register.check_gate(figures(0.3, 0.124), 1.0)


def test_damaged_weights_are_not_registered(made, settings, tmp_path, tiny_songs) -> None:
    paths, _, _ = made
    other = params.Paths(tmp_path / "data")
    other.train.mkdir(parents=True)
    (other.train / "model.json").write_bytes((paths.train / "model.json").read_bytes())
    content = bytearray((paths.train / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (other.train / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="sha256"):
        register.run(settings, other)


def test_weights_trained_on_other_pairs_are_not_registered(made, settings) -> None:
    paths, _, _ = made
    before = (paths.register / "lineage.json").read_bytes()
    trials = paths.render / "trials.parquet"
    trials.write_bytes(b"others")
    try:
        with pytest.raises(
            ValueError,
            match=r"trained on pairs with digest \w{12}, those in \S+render have \w{12}",
        ):
            register.run(settings, paths)
    finally:
        trials.write_bytes(b"trials")
    assert (paths.register / "lineage.json").read_bytes() == before


def test_no_registry_is_made_by_looking_for_a_model(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(FileNotFoundError, match=r"no registry mlflow\.db here"):
        phalar.load_model("phalar@challenger")
    assert not list(tmp_path.iterdir())
