"""Work over many items as a task each: in threads, in processes, or on a Dask cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from flows import orchestrator
from phalar import pool

PROCESSES, DASK = "processes", "dask"


class Work:
    """A function and an item that Prefect passes on as they are, without a look inside."""

    def __init__(self, function: Callable[[Any], Any], item: Any) -> None:
        self.function = function
        self.item = item

    def __call__(self) -> Any:
        """Do it."""
        return self.function(self.item)


def do(work: Work) -> Any:
    """Do the work of one task."""
    return work()


def tasks(
    name: str, *, of: pool.Over = pool.mapper, runner: str = PROCESSES, retries: int = 0
) -> pool.Over:
    """Stand in for a map over workers, with a Prefect task for each item where one records.

    Parameters
    ----------
    name : str
        Of the tasks.
    of : pool.Over
        What does the work on this machine.
    runner : str
        `processes`: this machine; `dask`: a Dask cluster that is started here; else the address of
        the scheduler of one, whose machines see the same files under the same paths.
    retries : int
        Of a task that fails for the network.
    """

    @contextmanager
    def over(workers: int | Literal["auto"], stage: str) -> Iterator[pool.Map]:
        if runner == PROCESSES:
            with of(workers, stage) as inner:
                if not orchestrator.is_connected():
                    yield inner
                else:
                    with _threads(pool.count(workers)) as runs:
                        yield _recorded(runs, name, retries, lambda f, i: _here(inner, f, i))
        elif orchestrator.is_connected():
            with _dask(runner, pool.count(workers)) as runs:
                yield _recorded(runs, name, retries, Work)
        else:
            raise ValueError(
                f"{stage}.runner = {runner} needs Prefect: start `python -m flows.server`, or set "
                f"it to {PROCESSES}"
            )

    return over


def _here(inner: pool.Map, function: Callable[[Any], Any], item: Any) -> Work:
    """Work whose task waits in a thread for one of this machine's workers."""
    return Work(lambda item: next(iter(inner(function, [item]))), item)


def _recorded(
    runs: Any, name: str, retries: int, work: Callable[[Callable[[Any], Any], Any], Work]
) -> pool.Map:
    """Return a map that keeps order and makes a task of each item."""

    def each(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        total = len(items)
        futures = [
            runs.submit(
                orchestrator.prefect_task(do, name=f"{name} {n} of {total}", retries=retries),
                {"work": work(function, item)},
            )
            for n, item in enumerate(items, 1)
        ]
        for future in futures:
            yield future.result()

    return each


def _threads(count: int) -> Any:
    from prefect.task_runners import ThreadPoolTaskRunner

    return ThreadPoolTaskRunner(max_workers=count)


def _dask(address: str, count: int) -> Any:
    """Connect to a cluster, or start one whose workers have a thread each."""
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        raise ValueError(
            "render.runner: Dask is not installed; `pip install 'phalar[dask]'`"
        ) from error
    if address != DASK:
        return DaskTaskRunner(address=address)
    return DaskTaskRunner(
        cluster_kwargs={"n_workers": count, "threads_per_worker": 1, "dashboard_address": None}
    )
