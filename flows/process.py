"""Processes that end together: no stage and no server outlives the run that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from contextlib import suppress
from types import FrameType
from typing import Any

import psutil

OWNER = "PHALAR_LINE_PID"
"""Environment variable: the process that runs the whole line."""
GRACE_S = 90.0
"""A stage that is stopped has this long to save where it is."""


def interrupt_on_signals() -> None:
    """Let SIGTERM, and SIGHUP of a closed terminal, end this process as Ctrl-C does: tidily."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # `nohup` asks for a process that outlives its terminal.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def end_with(*pids: int) -> None:
    """Stop this process once one of others is gone: a killed parent leaves nothing running."""

    def watch() -> None:
        while all(is_running(pid) for pid in pids):
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="end with").start()


def end_with_the_line() -> None:
    """Stop this stage when the DVC that started it is gone, or the command that started DVC."""
    parents = [os.getppid()] if "DVC_STAGE" in os.environ else []
    if owner := os.environ.get(OWNER):
        parents.append(int(owner))
    if parents:
        end_with(*parents)


def is_running(pid: int) -> bool:
    """Tell whether a process is there and has not ended."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def stop(child: subprocess.Popen[Any]) -> None:
    """Interrupt a child that leads its own group, and kill what is left of it and its offspring."""
    if child.poll() is not None:
        return
    # Trainers lead groups of their own, so the group alone would not be all.
    family = [leader := psutil.Process(child.pid), *leader.children(recursive=True)]
    os.killpg(child.pid, signal.SIGINT)
    try:
        psutil.wait_procs(family, timeout=GRACE_S)
    finally:  # a second Ctrl-C cuts the wait short
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.kill()
        child.wait()
