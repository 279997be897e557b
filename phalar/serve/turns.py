"""Work in turns: a few threads compute, and what nobody waits for any more is not begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Answer = TypeVar("Answer")


class GoneError(Exception):
    """Who asked has gone: there is nobody to answer."""


class Turns:
    """A few threads of one's own, for any number of requests.

    A thread that has computed keeps its buffers: with the forty of the server, memory grew by 700
    MB until each of them had its own. And those forty are then free for what needs no turn.

    Parameters
    ----------
    workers : int
        How many compute at the same time; others wait, and hold no decoded sound.
    """

    def __init__(self, workers: int) -> None:
        self._threads = ThreadPoolExecutor(workers, "phalar")

    async def take(
        self, work: Callable[[], Answer], leaving: Callable[[], Coroutine[Any, Any, object]]
    ) -> Answer:
        """Do some work when it is its turn, unless who asked for it leaves before.

        Parameters
        ----------
        work : callable
            What one of the threads does.
        leaving : coroutine function
            Ends when who asked has gone.

        Raises
        ------
        GoneError
            It has gone; the work was not begun, or what it gave is of no use.
        """
        turn = self._threads.submit(work)
        answer, left = asyncio.wrap_future(turn), asyncio.ensure_future(leaving())
        try:
            await asyncio.wait((answer, left), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                if not turn.cancel():
                    # It has begun, and reads files that end with the request.
                    await asyncio.wait((answer,))
                    answer.exception()
                raise GoneError("who asked has gone")
            return answer.result()
        finally:
            left.cancel()
            answer.cancel()

    def close(self) -> None:
        """Begin no more; what is being computed is ended."""
        self._threads.shutdown(wait=False, cancel_futures=True)
