"""Turns: few compute, and what nobody waits for any more is not begun."""

import asyncio
import threading

import pytest

pytest.importorskip("starlette", reason="pip install 'phalar[serve]'")

from phalar.serve.turns import GoneError, Turns

WAIT_S = 60.0


def test_who_leaves_while_waiting_costs_nothing_and_the_next_is_done() -> None:
    turns, begun, go_on = Turns(1), threading.Event(), threading.Event()
    done: list[str] = []

    def first() -> str:
        begun.set()
        assert go_on.wait(WAIT_S)
        return "first"

    async def ask() -> list[object]:
        leave = asyncio.Event()
        stays = asyncio.Event().wait
        running = asyncio.create_task(turns.take(first, stays))
        await asyncio.to_thread(begun.wait, WAIT_S)
        waiting = [
            asyncio.create_task(turns.take(lambda: done.append("left"), leave.wait))
            for _ in range(5)
        ]
        last = asyncio.create_task(turns.take(lambda: done.append("last"), stays))
        await asyncio.sleep(0.05)
        leave.set()
        answers: list[object] = await asyncio.gather(*waiting, return_exceptions=True)
        # The first is still being computed.
        assert not running.done()
        go_on.set()
        await last
        return [*answers, await running]

    *left, answer = asyncio.run(ask())
    assert [type(each) for each in left] == [GoneError] * 5
    assert (answer, done) == ("first", ["last"])


def test_work_that_has_begun_is_waited_for_as_it_reads_the_files_of_its_request() -> None:
    turns, begun, go_on = Turns(1), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert go_on.wait(WAIT_S)
        raise ValueError("nobody hears of it")

    async def ask() -> None:
        leave = asyncio.Event()
        asked = asyncio.create_task(turns.take(work, leave.wait))
        await asyncio.to_thread(begun.wait, WAIT_S)
        leave.set()
        await asyncio.sleep(0.05)
        assert not asked.done()
        go_on.set()
        with pytest.raises(GoneError):
            await asked

    asyncio.run(ask())


def test_what_is_wrong_reaches_who_asked_and_a_closed_one_begins_no_more() -> None:
    turns = Turns(2)

    def wrong() -> None:
        raise ValueError("too short")

    async def ask() -> None:
        with pytest.raises(ValueError, match="too short"):
            await turns.take(wrong, asyncio.Event().wait)
        turns.close()
        with pytest.raises(RuntimeError, match="shutdown"):
            await turns.take(wrong, asyncio.Event().wait)

    asyncio.run(ask())
