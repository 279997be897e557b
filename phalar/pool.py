"""Worker processes of one thread each, which end when their parent does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

Map = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Applies a function to each item, in order, in this process or in several."""

Over = Callable[[int | Literal["auto"], str], AbstractContextManager[Map]]
"""`mapper`, `threads`, or what stands in for them: so many workers for a stage of this name."""


def count(workers: int | Literal["auto"]) -> int:
    """Number of workers; `auto` is one for each core."""
    return (os.cpu_count() or 1) if workers == "auto" else workers


@contextmanager
def mapper(workers: int | Literal["auto"], stage: str) -> Iterator[Map]:
    """Yield a `map` that keeps order: the plain one for one worker, else one over processes.

    Parameters
    ----------
    workers : int or "auto"
        Processes; `auto` is one for each core.
    stage : str
        Section of params.yaml that an error points to.

    Raises
    ------
    ChildProcessError
        A worker was killed.
    """
    if count(workers) == 1:
        yield map
        return
    # Forked workers would inherit the locks of threads that they do not have.
    context = multiprocessing.get_context("spawn")
    with (
        _single_threaded(),
        ProcessPoolExecutor(count(workers), mp_context=context, initializer=_start_worker) as pool,
    ):
        try:
            yield pool.map
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"{stage}: a worker process was killed, most likely for want of memory; run again "
                f"(it goes on where it stopped), with fewer {stage}.workers if it happens again"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def threads(workers: int | Literal["auto"], stage: str) -> Iterator[Map]:
    """Yield a `map` over threads, for what waits more than it computes."""
    with ThreadPoolExecutor(count(workers), thread_name_prefix=stage) as pool:
        try:
            yield pool.map
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started in here use one thread each: the cores are shared out already."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent does, even when it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
