"""Worker processes: results in order, errors as they are, and a killed worker in one line."""

from __future__ import annotations

import os
import signal
import time

import pytest

from phalar import pool


def slow_square(number: int) -> tuple[int, int, str | None]:
    """Later items are done first."""
    time.sleep(0.05 * (3 - number % 4))
    return number**2, os.getpid(), os.environ.get("OMP_NUM_THREADS")


def fail(number: int) -> int:
    raise ValueError(f"item {number} is wrong")


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_results_come_in_order_from_processes_of_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with pool.mapper(2, "render") as mapper:
        done = list(mapper(slow_square, range(8)))
    assert [square for square, _, _ in done] == [number**2 for number in range(8)]
    assert os.getpid() not in {pid for _, pid, _ in done}
    assert {threads for _, _, threads in done} == {"1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"


def test_one_worker_is_this_process():
    with pool.mapper(1, "render") as mapper:
        assert next(iter(mapper(slow_square, [3])))[1] == os.getpid()


def test_an_error_comes_through_as_it_was():
    with pytest.raises(ValueError, match="item 1 is wrong"), pool.mapper(2, "render") as mapper:
        list(mapper(fail, [1]))


def test_a_killed_worker_is_one_line():
    with (
        pytest.raises(ChildProcessError, match=r"render: a worker process was killed.*render\.wor"),
        pool.mapper(2, "render") as mapper,
    ):
        list(mapper(die, range(4)))
