"""The launcher, with small processes in the place of trainings."""

from __future__ import annotations

import logging
import subprocess
import sys
import time

import psutil
import pytest
import torch
from tiny_render import ROOT, tiny_params

from phalar import params as parameters
from phalar.train import launch

CONFIG = tiny_params(train={"devices": "cpu", "threads": 1}).train


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Return a function that launches a Python text as if it were the training process."""

    def start(text: str) -> None:
        script = tmp_path / "worker.py"
        script.write_text(text)
        monkeypatch.setattr(launch, "_command", lambda *_: [sys.executable, str(script)])
        launch.supervise(
            tmp_path / "params.yaml",
            CONFIG,
            tmp_path / "data",
            errors=tmp_path / "errors",
            resume=False,
        )

    return start


def test_lines_are_passed_on_and_settings_reach_the_process(launched, caplog):
    caplog.set_level(logging.INFO)
    launched(
        "import os, sys\n"
        "print('threads', os.environ['OMP_NUM_THREADS'], os.environ['OMP_WAIT_POLICY'])\n"
        "print('warning: slow disk')\n"
        "print('noise of a library', file=sys.stderr)\n"
        "print(sys.argv[1::2])\n"
    )
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "threads 1 PASSIVE"),
        ("WARNING", "slow disk"),
        ("INFO", "['--params', '--data', '--errors']"),
    ]


def test_the_first_failure_is_the_error_not_those_that_follow_from_it(launched, tmp_path):
    text = (
        "import pathlib, sys, time\n"
        "errors = pathlib.Path(sys.argv[6])\n"
        f"(errors / 'error-rank0.txt').write_text('train: {launch.LOST_CONTACT} (gloo)')\n"
        "time.sleep(0.05)\n"
        "(errors / 'error-rank1.txt').write_text('train: loss is nan\\n\\nTraceback')\n"
        "sys.exit(1)\n"
    )
    with pytest.raises(launch.TrainingError) as caught:
        launched(text)
    assert str(caught.value) == (
        f"train: loss is nan (traceback: {tmp_path / 'errors' / 'error-rank1.txt'})"
    )


def test_a_killed_process_is_named_by_its_signal(launched):
    with pytest.raises(launch.TrainingError, match=r"was killed by SIGKILL, .* run again"):
        launched("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(launch.TrainingError, match="was killed by SIGKILL"):
        launched("import sys; print('  exitcode  : -9 (pid: 7)', file=sys.stderr); sys.exit(1)")
    with pytest.raises(launch.TrainingError, match=r"code 3 and left no error; see .*stderr.txt"):
        launched("import sys; sys.exit(3)")


def test_nodes_that_do_not_meet_or_stop_say_so(launched):
    text = "import sys; print('api.Rendezvous{}Error: ...', file=sys.stderr); sys.exit(1)"
    for kind in ("Connection", "Timeout"):
        with pytest.raises(launch.TrainingError, match=rf"{kind}Error: the nodes did not meet; st"):
            launched(text.format(kind))
    with pytest.raises(launch.TrainingError, match="another process was stopped, so all saved"):
        launched("import sys; print('  exitcode  : 143 (pid: 7)', file=sys.stderr); sys.exit(1)")


GRANDCHILD = """
import os, pathlib, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(sys.argv[6], "pids").write_text(f"{os.getpid()} {child.pid}")
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
os.kill(os.getppid(), %s)
time.sleep(600)
"""


@pytest.mark.parametrize(
    ("number", "outcome"), [("signal.SIGINT", KeyboardInterrupt), ("signal.SIGTERM", SystemExit)]
)
def test_a_signal_is_handed_on_and_nothing_stays_behind(launched, tmp_path, number, outcome):
    with pytest.raises(outcome):
        launched(GRANDCHILD % number)
    for pid in (tmp_path / "errors" / "pids").read_text().split():
        await_end(int(pid))


def await_end(pid: int) -> None:
    """Fail unless a process is gone, or waits to be buried by a parent that is not ours, soon."""
    deadline = time.monotonic() + 30
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_process_stops_when_its_launcher_is_killed(tmp_path):
    text = (
        "import signal, sys, time\n"
        "from phalar.train import launch\n"
        f"signal.signal(signal.SIGTERM, lambda *_: open({str(tmp_path / 'saved')!r}, 'w') and "
        "sys.exit(0))\n"
        "launch.watch_launcher()\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    parent = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {text!r}], start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    launcher = subprocess.Popen([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE)
    pid = int(launcher.stdout.readline())
    assert launcher.stdout.readline() == b"ready\n"
    launcher.kill()
    launcher.wait()
    await_end(pid)
    assert (tmp_path / "saved").exists()


def test_processes_follow_devices(monkeypatch):
    assert launch.process_count(CONFIG) == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"train.devices = 3 is more than the 2 GPUs"):
        launch.process_count(
            parameters.Train.model_validate({**CONFIG.model_dump(by_alias=True), "devices": 3})
        )
    monkeypatch.undo()
    many = parameters.Train.model_validate({**CONFIG.model_dump(by_alias=True), "devices": 3})
    assert launch.process_count(many) == 3
    nodes = {"count": 2, "endpoint": "host:29400", "id": "x"}
    spread = parameters.Train.model_validate({**many.model_dump(by_alias=True), "nodes": nodes})
    command = launch._command(spread, 3)
    assert {"--nnodes=2", "--rdzv-endpoint=host:29400", "--nproc-per-node=3"} <= set(command)
