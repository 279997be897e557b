"""Flows: who runs them, how they end, and that nothing of them is left behind."""

from __future__ import annotations

import ast
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest

from flows import command, journal, process, repro, server

ROOT = Path(__file__).parents[1]
STAGES = ("download", "prepare", "render", "train", "evaluate", "register")

FLOW = """
import logging, os, signal, sys, time
from flows.command import main
from flows.orchestrator import flow, show_table, task

log = logging.getLogger("phalar.probe")
attempts = 0

def work(line):
    global attempts
    attempts += 1
    log.info("attempt %d on %s", attempts, line.source)
    {body}

step = task(work, name="work", retries=1)

@flow
def prepare(line):
    "A stand-in for the stage."
    step(line)
    show_table("probe", [{{"attempts": attempts}}], "What was tried")

main(prepare, of_source=True)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


def environment(**changes: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    return {**clean, "PYTHONPATH": str(ROOT), "PHALAR_ORCHESTRATOR": "none", **changes}


def start(project: Path, body: str, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", FLOW.format(body=body), *(arguments or ("bands",))],
        cwd=project,
        env=environment(**changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where these tests run under `nohup`, the stage does not.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


def run(project: Path, body: str, *arguments: str, **changes: str) -> tuple[int, str, str]:
    child = start(project, body, *arguments, **changes)
    out, err = child.communicate(timeout=120)
    return child.returncode, out, err


# ---- flow files --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STAGES)
def test_a_flow_file_holds_names_and_order_and_no_logic(name: str) -> None:
    text = (ROOT / f"flows/{name}.py").read_text()
    body = [node for node in ast.parse(text).body if "__main__" not in ast.unparse(node)]
    logic = (
        ast.If,
        ast.For,
        ast.While,
        ast.Try,
        ast.With,
        ast.Lambda,
        ast.comprehension,
        ast.BinOp,
    )
    assert not [node for top in body for node in ast.walk(top) if isinstance(node, logic)]
    assert len(text.splitlines()) < 80


def test_flows_are_imported_without_prefect_dvc_and_mlflow() -> None:
    code = "import sys\n" + "".join(f"import flows.{name}\n" for name in STAGES)
    code += "print(sorted({'prefect', 'dvc', 'mlflow'} & sys.modules.keys()))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# ---- how a command ends ------------------------------------------------------------------------


def test_a_stage_that_ends_well_is_noted(project: Path) -> None:
    code, out, _ = run(project, "pass")
    assert code == 0
    assert "attempt 1 on bands" in out
    entry = journal.read(project / "data/journal.json")["prepare@bands"]
    assert entry.error is None
    assert entry.took_s is not None


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("raise ValueError('pairs: 3, need 4; render more')", "prepare@bands: pairs: 3, need 4"),
        ("raise ValueError('prepare bands: no songs')", "prepare bands: no songs"),
        ("raise RuntimeError('the trainer fell over')", "prepare@bands: the trainer fell over"),
        ("raise OSError(28, 'No space left on device', 'x.tar')", "prepare@bands: x.tar: No space"),
        ("{}['key']", "prepare@bands: KeyError: 'key'; PHALAR_DEBUG=1 shows where"),
    ],
)
def test_a_stage_that_fails_says_so_in_one_line(project: Path, body: str, line: str) -> None:
    code, _, err = run(project, body)
    assert code == command.FAILED
    assert err.startswith(line)
    assert err.count("\n") == 1
    noted = journal.read(project / "data/journal.json")["prepare@bands"].error
    assert noted is not None
    assert noted in err


def test_debug_shows_where_it_failed(project: Path) -> None:
    code, _, err = run(project, "{}['key']", PHALAR_DEBUG="1")
    assert code == command.FAILED
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (("jazz",), {}, "source 'jazz' is not in params.yaml; choose from chorales, bands"),
        ((), {"PHALAR_ORCHESTRATOR": "airflow"}, "PHALAR_ORCHESTRATOR=airflow is not known"),
        ((), {"PHALAR_ORCHESTRATOR": "prefect"}, "but no server answers; start one with"),
        (("bands", "--params", "other.yaml"), {}, "other.yaml: no such file"),
        (("bands", "--sped", "3"), {}, "unrecognized arguments: --sped 3"),
        (("bands", "--params", "."), {}, "Is a directory"),
    ],
)
def test_wrong_use_is_told_before_anything_runs(
    project: Path, arguments: tuple[str, ...], changes: dict[str, str], message: str
) -> None:
    code, out, err = run(project, "pass", *arguments, **changes)
    assert code == command.WRONG_USE
    assert message in err
    assert "Traceback" not in err
    assert "attempt" not in out


def test_a_wrong_parameter_is_wrong_use(project: Path) -> None:
    path = project / "params.yaml"
    path.write_text(path.read_text().replace("steps:", "stpes:", 1))
    code, _, err = run(project, "pass")
    assert code == command.WRONG_USE
    assert "params.yaml: train.stpes is not a parameter" in err


def test_a_file_in_place_of_the_data_folder_is_named(project: Path) -> None:
    (project / "data").write_text("")
    code, _, err = run(project, "pass")
    assert code == command.FAILED
    assert "data/journal.json: Not a directory; a file stands where a folder must be" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_stage_tidily(project: Path, number: int) -> None:
    body = "\n    try: print('waiting', flush=True); time.sleep(60)\n    finally: print('tidied')"
    child = start(project, body)
    assert child.stdout is not None
    while "waiting" not in child.stdout.readline():
        pass
    child.send_signal(number)
    out, err = child.communicate(timeout=30)
    assert child.returncode == command.STOPPED
    assert "tidied" in out
    assert err == "prepare@bands: stopped; the next run goes on from here\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left", "a.tar"), "a.tar: No space left; free some space"),
        (OSError(errno.EACCES, "Permission denied", "a"), "a: Permission denied; make it writable"),
        (OSError(errno.ENOSPC, "No space left"), "No space left; free some space"),
        (ConnectionError("no network"), "no network"),
        (ValueError(), "ValueError: ; PHALAR_DEBUG=1 shows where"),
        (AttributeError("x"), "AttributeError: x; PHALAR_DEBUG=1 shows where"),
        (SystemExit(143), "stopped; the next run goes on from here"),
    ],
)
def test_errors_are_put_into_words(error: BaseException, words: str) -> None:
    assert command.explain(error).startswith(words)


# ---- the journal -------------------------------------------------------------------------------


def test_the_journal_keeps_the_last_run_of_each_stage(tmp_path: Path) -> None:
    path = tmp_path / "data/journal.json"
    first, second = journal.Entry(1.0, None, None), journal.Entry(2.0, 3.0, "full")
    journal.write(path, "train", first)
    journal.write(path, "render", first)
    journal.write(path, "train", second)
    assert journal.read(path) == {"train": second, "render": first}
    assert [file.name for file in path.parent.iterdir()] == ["journal.json"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"train": {}}', '{"train": 3}', "3"])
def test_a_damaged_journal_is_no_obstacle(tmp_path: Path, text: str) -> None:
    path = tmp_path / "journal.json"
    path.write_text(text)
    assert journal.read(path) == {}


# ---- processes ---------------------------------------------------------------------------------


def test_a_stage_ends_when_the_dvc_that_started_it_is_killed(project: Path) -> None:
    stage = [sys.executable, "-c", FLOW.format(body="time.sleep(100)"), "bands"]
    dvc = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({stage!r})"],
        cwd=project,
        env=environment(DVC_STAGE="prepare@bands"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert dvc.stdout is not None
    while "attempt" not in dvc.stdout.readline():
        pass
    (child,) = psutil.Process(dvc.pid).children()
    dvc.kill()
    child.wait(timeout=30)
    assert "stopped" in dvc.stdout.read()
    dvc.wait()
    assert "stopped" in str(journal.read(project / "data/journal.json")["prepare@bands"].error)


def test_a_process_that_ended_does_not_run(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.pid_exists(child.pid)
    assert not process.is_running(child.pid)
    child.wait()
    assert not process.is_running(child.pid)
    assert process.is_running(os.getpid())


def test_stopping_reaches_offspring_in_other_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE_S", 1.0)
    stubborn = "import signal, time; signal.signal(2, signal.SIG_IGN); time.sleep(100)"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {stubborn!r}], start_new_session=True)\n"
        "print(child.pid, flush=True)\nchild.wait()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", parent],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert child.stdout is not None
    grandchild = int(child.stdout.readline())
    process.stop(child)
    assert child.returncode is not None
    psutil.wait_procs([psutil.Process(grandchild)] if psutil.pid_exists(grandchild) else [], 10)
    assert not process.is_running(grandchild)


# ---- Prefect -----------------------------------------------------------------------------------


def request(url: str, query: dict[str, Any] | None = None) -> Any:
    body = None if query is None else json.dumps(query).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=30) as reply:
        return json.load(reply)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A project folder with a local server that runs, and the server's address."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(ROOT / "params.yaml", folder)
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.server", "--while", str(os.getpid())],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    url = child.stdout.readline().split()[3]
    yield folder, url
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert not (folder / server.NOTE).exists()


def test_where_a_server_runs_the_stage_is_recorded(served: tuple[Path, str]) -> None:
    folder, url = served
    # Right after its start: the stage waits for the server instead of going unrecorded.
    body = "\n    if attempts == 1: raise ConnectionError('the network is away')"
    code, out, err = run(folder, body, PHALAR_ORCHESTRATOR="auto")
    assert (code, err) == (0, "")
    assert f"Prefect shows this run at {url}" in out
    (flow_run,) = request(f"{url}/api/flow_runs/filter", {})
    assert flow_run["state"]["type"] == "COMPLETED"
    (flow,) = request(f"{url}/api/flows/filter", {})
    assert flow["name"] == "prepare"
    (artifact,) = request(f"{url}/api/artifacts/filter", {})
    assert json.loads(artifact["data"]) == [{"attempts": 2}]
    messages = [log["message"] for log in request(f"{url}/api/logs/filter", {"limit": 100})]
    assert "attempt 1 on bands" in messages
    assert "attempt 2 on bands" in messages


def test_what_would_not_pass_by_itself_is_not_tried_again(served: tuple[Path, str]) -> None:
    folder, _ = served
    code, out, err = run(folder, "raise ValueError('wrong checksum')", PHALAR_ORCHESTRATOR="auto")
    assert code == command.FAILED
    assert err == "prepare@bands: wrong checksum\n"
    assert "attempt 2" not in out


def test_a_second_server_is_not_started(served: tuple[Path, str]) -> None:
    folder, url = served
    done = subprocess.run(
        [sys.executable, "-m", "flows.server"],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == f"Prefect is at {url} already\n"


def test_without_a_server_a_stage_runs_plainly_and_says_so(project: Path) -> None:
    code, out, _ = run(project, "pass", PHALAR_ORCHESTRATOR="auto")
    assert code == 0
    assert "Prefect does not answer: no retries, no record" in out


def test_the_note_of_a_server_that_is_gone_is_not_believed(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    server.HOME.mkdir()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    server.NOTE.write_text(json.dumps({"url": "http://127.0.0.1:9/api", "pid": child.pid}))
    assert server.find() is None
    server.NOTE.write_text("{")
    assert server.find() is None


def test_an_address_that_does_not_answer_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert server.find() is None


@pytest.mark.parametrize(("status", "answers"), [(200, True), (401, True), (503, False)])
def test_a_server_that_wants_a_key_is_there(
    monkeypatch: pytest.MonkeyPatch, status: int, answers: bool
) -> None:
    class Reply(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Reply) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{http.server_port}/api"
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert server.find() == (url if answers else None)
        http.shutdown()


def test_a_server_ends_with_the_process_it_is_for(project: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    child = subprocess.Popen(
        [sys.executable, "-m", "flows.server", "--while", str(owner.pid)],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    child.stdout.readline()
    owner.kill()
    owner.wait()
    child.wait(timeout=60)
    assert child.returncode is not None


# ---- the whole line ----------------------------------------------------------------------------


def test_a_second_run_of_the_line_is_told_who_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with repro.alone():
        message = f"runs already, as process {os.getpid()}; wait"
        with pytest.raises(BlockingIOError, match=message), repro.alone():
            pass
    with repro.alone():
        assert repro.LOCK.read_text() == str(os.getpid())


def test_stages_run_with_this_interpreter_and_without_telemetry() -> None:
    found = repro.environment()
    assert shutil.which("python", path=found["PATH"]) == str(Path(sys.executable).parent / "python")
    assert found["DVC_NO_ANALYTICS"] == found["DO_NOT_TRACK"] == "1"
    assert found["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (journal.Entry(10.0, 3.0, "no pairs"), "render: no pairs\n"),
        (journal.Entry(10.0, None, None), "render: was killed"),
        (journal.Entry(10.0, 3.0, None), "dvc repro failed, for the reason it gives above\n"),
        (journal.Entry(1.0, 3.0, "an old error"), "dvc repro failed"),
    ],
)
def test_the_last_line_names_the_stage_that_failed(entry: journal.Entry, words: str) -> None:
    assert f"{repro.failure({'render': entry}, started=5.0)}\n".startswith(words)
