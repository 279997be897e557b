"""One honest progress line with rate and remaining time, on a terminal or in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.text import Text

PLAIN_LINE_EVERY_S = 10.0
"""Where stderr is a file or a pipe, a bar would be noise: one line in this time is enough."""


class Tick(Protocol):
    """Reports that more units are done."""

    def __call__(self, units: int = 1, /) -> None:
        """Count `units` more as done."""


@contextmanager
def track(total: int, name: str, *, unit: str) -> Iterator[Tick]:
    """Show on stderr how far `name` is: done of total, rate, time that is left.

    Parameters
    ----------
    total : int
        Units of the whole work.
    name, unit : str
        What is done and what is counted, as in `prepare bands` and `tracks`.

    Yields
    ------
    tick : callable
        To be called with the number of units that were finished since the last call.
    """
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit))
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(name, total=total)
            yield lambda units=1: progress.advance(task, units)
    else:
        yield _plain(total, name, unit)


def _plain(total: int, name: str, unit: str) -> Callable[..., None]:
    """Print a line every `PLAIN_LINE_EVERY_S`, and one at the end."""
    start = last = time.monotonic()
    done = 0

    def tick(units: int = 1, /) -> None:
        nonlocal done, last
        done += units
        now = time.monotonic()
        if done >= total or now - last >= PLAIN_LINE_EVERY_S:
            last = now
            line = f"{name}: {done}/{total} {_pace(done, total, now - start, unit)}"
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    return tick


def transfer(name: str) -> Callable[[int, int | None], None]:
    """Return what reports the bytes of one of several transfers, a line now and then for each.

    Several bars would need one place that knows of all threads; lines do not.
    """
    start = last = time.monotonic()
    first: int | None = None

    def show(done: int, total: int | None) -> None:
        nonlocal last, first
        now = time.monotonic()
        first = done if first is None else first
        is_end = done == total
        if not is_end and now - last < PLAIN_LINE_EVERY_S:
            return
        last = now
        rate = max(done - first, 0) / max(now - start, 1e-9)
        whole = f" of {total / 1e6:.1f}" if total else ""
        left_s = round((total - done) / rate) if total and rate else 0
        tail = f", {left_s // 60}:{left_s % 60:02d} left" if left_s else ""
        line = f"{name}: {done / 1e6:.1f}{whole} MB, {rate / 1e6:.1f} MB/s{tail}"
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    return show


def _pace(done: float, total: float, elapsed_s: float, unit: str) -> str:
    """Rate and what is left, such as `tracks, 3.1/s, 0:42 left`."""
    if not done or not elapsed_s:
        return unit
    rate = done / elapsed_s
    left_s = round((total - done) / rate)
    left = f"{left_s // 60}:{left_s % 60:02d} left"
    tail = left if done < total else f"took {elapsed_s:.0f} s"
    return f"{unit}, {rate:.{2 if rate < 10 else 0}f}/s, {tail}"


class _Rate(ProgressColumn):
    """Unit, rate and remaining time behind the bar."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Give the text of one refresh."""
        return Text(_pace(task.completed, task.total or 0, task.elapsed or 0.0, self.unit))
