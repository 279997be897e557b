"""Facts about code, and a run record that survives resumes and servers that are not there."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from phalar import params, runlog

PARAMS_PATH = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture(scope="session")
def new_store(tmp_path_factory) -> Path:
    """A project folder whose database was made by a first run."""
    project = tmp_path_factory.mktemp("project")
    recorder = open_recorder(project)
    recorder.log({"loss": 2.0}, step=1)
    recorder.close("FINISHED")
    (project / "run_id").write_text(recorder.run_id)
    return project


def open_recorder(project: Path, *, uri="sqlite:///mlflow.db", run_id=None) -> runlog.Recorder:
    facts = runlog.Facts(
        name="train",
        params=params.load(PARAMS_PATH),
        tags={"git.commit": "abc", "git.dirty": "false"},
        data=(runlog.DataSet("render", project / "render", "0123456789" * 6, "training"),),
    )
    config = params.Tracking(uri=uri, experiment="tests")
    return runlog.Recorder(config, project=project, facts=facts, run_id=run_id)


@pytest.fixture(autouse=True)
def quick_mlflow(monkeypatch):
    for name, value in runlog.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def client(project: Path):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{project}/mlflow.db")


def test_a_run_holds_parameters_tags_data_and_metrics(new_store):
    run = client(new_store).get_run((new_store / "run_id").read_text())
    assert run.info.status == "FINISHED"
    assert run.data.params["train.loss.target_weight"] == "0.9"
    assert run.data.params["sources"] == '["chorales", "bands"]'
    assert run.data.tags["git.commit"] == "abc"
    assert run.data.metrics["loss"] == 2.0
    assert run.info.artifact_uri.startswith((new_store / "mlartifacts").as_uri())
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("render", ("0123456789" * 6)[:36])
    assert [p.name for p in new_store.iterdir() if "mlflow" in p.name] == ["mlflow.db"]


def test_a_resume_goes_on_with_the_same_run(new_store):
    recorder = open_recorder(new_store)
    recorder.log({"loss": 3.0}, step=1)
    recorder.close("KILLED")
    again = open_recorder(new_store, run_id=recorder.run_id)
    again.log({"loss": 2.5}, step=2)
    again.close("FINISHED")
    assert again.run_id == recorder.run_id
    history = client(new_store).get_metric_history(recorder.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 3.0), (2, 2.5)]
    assert client(new_store).get_run(recorder.run_id).info.status == "FINISHED"


def test_a_run_that_is_gone_is_made_anew(new_store, caplog):
    recorder = open_recorder(new_store, run_id="0" * 32)
    recorder.close("FINISHED")
    assert recorder.run_id != "0" * 32
    assert "MLflow run 00000000000000000000000000000000 is gone" in caplog.text


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("http://127.0.0.1:9", "HTTPConnectionPool(host='127.0.0.1', port=9)"),
        ("sqlite:///nowhere/mlflow.db", "No such file or directory"),
        ("sqlite:///broken.db", "file is not a database"),
    ],
)
def test_a_broken_server_is_told_twice_and_stops_nothing(tmp_path, caplog, uri, reason):
    (tmp_path / "broken.db").write_text("this is no database, but it is long enough" * 100)
    recorder = open_recorder(tmp_path, uri=uri)
    recorder.log({"loss": 1.0, "rate": 0.1}, step=1)
    recorder.log({"loss": 0.5, "rate": 0.1}, step=2)
    recorder.close("FINISHED")
    assert recorder.run_id is None
    first, last = [record.getMessage() for record in caplog.records]
    assert reason in first and first.endswith("; training goes on")
    assert last.startswith("MLflow lacks 4 values of this run (") and reason in last


def test_without_mlflow_a_run_is_not_recorded_and_says_so(tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    recorder = open_recorder(tmp_path)
    recorder.log({"loss": 1.0}, step=1)
    recorder.close("FINISHED")
    assert "mlflow" in caplog.text
    assert "MLflow lacks 1 values" in caplog.text


def test_what_failed_is_sent_when_the_server_is_back(new_store, monkeypatch):
    monkeypatch.setattr(runlog, "RETRY_S", 0.0)
    project = new_store / "later"
    recorder = open_recorder(project)
    recorder.log({"loss": 1.0}, step=1)
    assert recorder.run_id is None
    project.mkdir()
    os.link(new_store / "mlflow.db", project / "mlflow.db")
    recorder.log({"loss": 0.5}, step=2)
    recorder.close("FINISHED")
    history = client(new_store).get_metric_history(recorder.run_id, "loss")
    assert [m.value for m in history] == [1.0, 0.5]


def test_the_environment_goes_before_params_and_sqlite_is_relative_to_the_project(monkeypatch):
    config = params.Tracking(uri="sqlite:///runs/mlflow.db", experiment="x")
    assert runlog.tracking_uri(config, Path("/project")) == "sqlite:////project/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert runlog.tracking_uri(config, Path("/project")) == "http://server:5000"


@pytest.fixture
def repository(tmp_path) -> Path:
    (tmp_path / "phalar").mkdir()
    (tmp_path / "phalar" / "code.py").write_text("one = 1\n")
    (tmp_path / "params.yaml").write_text("steps: 1\n")
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\n")
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_git_facts_tell_code_and_parameters_from_the_rest(repository):
    own = repository / "params.yaml"
    clean = runlog.git_facts(repository, own)
    assert len(clean.commit) == 40 and not clean.dirty
    (repository / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (repository / "notes.txt").write_text("mine\n")
    assert not runlog.git_facts(repository, own).dirty
    other = repository / "notes.txt"
    assert runlog.git_facts(repository, other).dirty
    (repository / "phalar" / "new.py").write_text("two = 2\n")
    assert runlog.git_facts(repository, own) == runlog.Git(clean.commit, dirty=True)


def test_no_repository_is_no_commit(tmp_path):
    assert runlog.git_facts(tmp_path, PARAMS_PATH) == runlog.Git("", dirty=False)


def test_flatten_names_values_by_their_path():
    values = {"a": {"b": 1, "c": {"d": [1.5, 2]}}, "e": "text", "f": None, "g": True}
    assert runlog.flatten(values) == {
        "a.b": "1",
        "a.c.d": "[1.5, 2]",
        "e": "text",
        "f": "null",
        "g": "true",
    }


def test_lines_are_plain_and_warnings_are_marked(capsys):
    logger = logging.getLogger("phalar")
    before = logger.handlers, logger.level, logger.propagate
    try:
        runlog.set_up_logging()
        logging.getLogger("phalar.train").info("step %d", 3)
        logging.getLogger("phalar.train").warning("slow")
        assert capsys.readouterr().out == "step 3\nwarning: slow\n"
    finally:
        logger.handlers, logger.level, logger.propagate = before
