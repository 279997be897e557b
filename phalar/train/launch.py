"""Start the training processes, pass on what they say, and leave none behind."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from phalar import params, runlog

logger = logging.getLogger(__name__)

WORKER = "phalar.train.worker"
LAUNCHER_PID = "PHALAR_LAUNCHER_PID"

# Tensors above glibc's threshold (32 MB) would be given back to the system and faulted in anew at
# every step: 6 % of a step's CPU time with the compiled kernel, far more with plain modules.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(8 << 30), "MALLOC_TRIM_THRESHOLD_": str(16 << 30)}

STOPPED = 128 + signal.SIGTERM
"""Exit code of a process that saved and stopped because it, or another one, was asked to."""

STDERR = "stderr.txt"

GRACE_S = 60.0
"""From SIGTERM, on which a process finishes its step and saves, to SIGKILL."""

LOST_CONTACT = "lost contact with another process"
"""How the error of a process begins that only fell because another did."""


class TrainingError(RuntimeError):
    """A training process failed; the text is one line."""


def supervise(
    params_path: Path, config: params.Train, data: Path, *, errors: Path, resume: bool
) -> None:
    """Run the training in processes of their own and wait for the end.

    SIGTERM and SIGINT make them save and stop; a second one kills them.

    Parameters
    ----------
    params_path, data : Path
        Parameter file and root of all data, handed on to the processes.
    config : params.Train
        How many processes and threads.
    errors : Path
        Where a process that fails leaves `error-rank<r>.txt`: one line, then its traceback.
    resume : bool
        Whether the processes refuse to begin anew.

    Raises
    ------
    TrainingError
        A process failed or was killed.
    KeyboardInterrupt, SystemExit
        Stopped by SIGINT, by SIGTERM; a checkpoint was saved.
    """
    errors.mkdir(parents=True, exist_ok=True)
    for old in errors.glob("error-rank*.txt"):
        old.unlink(missing_ok=True)
    # Launchers of several nodes share the folder.
    told = errors / (f"stderr-{socket.gethostname()}-{os.getpid()}.txt" if config.nodes else STDERR)
    processes = process_count(config)
    command = [*_command(config, processes), "--params", str(params_path), "--data", str(data)]
    command += ["--errors", str(errors), *(["--resume"] if resume else [])]
    # torchrun's own words, and what libraries say past the loggers, would bury our lines.
    with told.open("w") as stderr:
        process = subprocess.Popen(
            command,
            env=_environment(config, processes),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    if config.nodes is not None:
        logger.info("meets %d nodes at %s", config.nodes.count, config.nodes.endpoint)
    with _stopping(process) as received:
        for line in process.stdout or ():
            _tell(line.rstrip("\n"))
        code = process.wait()
    if received and code != 0:
        if received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + received[0])
    if code != 0:
        raise TrainingError(_explain(code, errors, told))
    told.unlink()


def process_count(config: params.Train) -> int:
    """Training processes on this node: what was asked for, or one a GPU, or one.

    Raises
    ------
    ValueError
        More were asked for than there are GPUs.
    """
    if config.devices == "cpu":
        return 1
    import torch

    there = torch.cuda.device_count()
    if config.devices == "auto":
        return max(1, there)
    if 0 < there < config.devices:
        raise ValueError(
            f"train.devices = {config.devices} is more than the {there} GPUs there are; lower it"
        )
    return config.devices


def _command(config: params.Train, processes: int) -> list[str]:
    if processes == 1 and config.nodes is None:
        return [sys.executable, "-m", WORKER]
    meeting = ["--standalone"]
    if config.nodes is not None:
        meeting = [
            f"--nnodes={config.nodes.count}",
            f"--rdzv-endpoint={config.nodes.endpoint}",
            f"--rdzv-id={config.nodes.id}",
            "--rdzv-backend=c10d",
        ]
    # Restarts inside torchrun often fail to meet again; a new run goes on at our checkpoint.
    torchrun = ["torch.distributed.run", *meeting, "--max-restarts=0"]
    return [sys.executable, "-m", *torchrun, f"--nproc-per-node={processes}", "-m", WORKER]


def _environment(config: params.Train, processes: int) -> dict[str, str]:
    threads = config.threads
    if threads == "auto":
        threads = max(1, len(os.sched_getaffinity(0)) // processes)
    return {
        **os.environ,
        **ALLOCATOR,
        **runlog.ENVIRONMENT,
        "OMP_NUM_THREADS": str(threads),
        # Threads that spin while they wait would take the loader's time.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONUNBUFFERED": "1",
        LAUNCHER_PID: str(os.getpid()),
    }


@contextmanager
def _stopping(process: subprocess.Popen[str]) -> Iterator[list[signal.Signals]]:
    """Hand signals on to a process, and see to it that it is gone in the end.

    Yields
    ------
    list of signals
        Those received so far.
    """
    received: list[signal.Signals] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))
        # The leader alone: torchrun tells the others, and telling them twice would kill them.
        if len(received) == 1:
            process.terminate()
        else:
            _kill_group(process)

    caught = (signal.SIGINT, signal.SIGTERM)
    # What a process leaves behind would hold the pipe open, and its reader for ever.
    threading.Thread(target=_bury, args=(process,), daemon=True).start()
    # Python lets the main thread alone handle signals; elsewhere our own end stops the process.
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, stop) for number in caught} if in_main else {}
    try:
        yield received
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_S)
        _kill_group(process)
        process.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _bury(process: subprocess.Popen[str]) -> None:
    process.wait()
    _kill_group(process)


def _kill_group(process: subprocess.Popen[str]) -> None:
    """Kill what is left of a process and its children."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tell(line: str) -> None:
    """Log a line of a process at the level that it is marked with."""
    for level in (logging.WARNING, logging.ERROR):
        mark = f"{logging.getLevelName(level).lower()}: "
        if line.startswith(mark):
            logger.log(level, "%s", line.removeprefix(mark))
            return
    logger.info("%s", line)


def _explain(code: int, errors: Path, told: Path) -> str:
    """Say in one line why the training failed: the first process that did, and why."""
    files = sorted(errors.glob("error-rank*.txt"), key=lambda path: path.stat().st_mtime_ns)
    lines = {path: path.read_text().splitlines()[0] for path in files}
    for path, line in lines.items():
        if LOST_CONTACT not in line:
            return f"{line} (traceback: {path})"
    # torchrun reports how its processes ended, itself it ends with 1.
    text = told.read_text()
    reported = re.findall(r"exitcode\s*:\s*(-?\d+)", text)
    ended = int(reported[-1]) if reported else code
    if ended < 0:
        return (
            f"train: a process was killed by {signal.Signals(-ended).name}, as happens where "
            "memory runs out; run again (it goes on at the last checkpoint), with a smaller "
            "train.batch_pairs or train.recompute_clips if it happens again"
        )
    if ended == STOPPED:
        return "train: another process was stopped, so all saved and stopped; run again to go on"
    for path, line in lines.items():
        return (
            f"{line}; see what the other nodes say, and run again on all: it goes on at the last "
            f"checkpoint (traceback: {path})"
        )
    if found := re.search(r"Rendezvous(Connection|Timeout)Error", text):
        return (
            f"train.nodes: {found[0]}: the nodes did not meet; start the same command on all of "
            f"them, and see that each reaches train.nodes.endpoint ({told})"
        )
    return f"train: the processes ended with code {code} and left no error; see {told}"


def watch_launcher() -> None:
    """Stop this process, with a checkpoint, when the one that launched it is gone.

    torchrun that is killed would leave its processes at work, and a launcher that is killed would
    leave torchrun.
    """
    launcher = os.environ.get(LAUNCHER_PID)
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and (launcher is None or _alive(int(launcher))):
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
