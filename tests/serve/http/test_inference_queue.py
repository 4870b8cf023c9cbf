"""The queue: bounded, counted, and rid of what nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from pocketvit.serve.http.inference_queue import MOST_RETRY_S, InferenceQueue
from pocketvit.serve.http.refusal import GONE, Refusal


async def never() -> None:
    await asyncio.Event().wait()


def blocked(gate: threading.Event) -> Callable[[Any], int]:
    def work(check: Any) -> int:
        assert gate.wait(30)
        return 7

    return work


async def until(true: Callable[[], bool]) -> None:
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never")


def test_answers_and_errors_come_back() -> None:
    async def run() -> None:
        queue = InferenceQueue(1, 0)
        assert await queue.run(lambda check: 3, 30, never) == 3
        with pytest.raises(ZeroDivisionError):
            await queue.run(lambda check: 1 // 0, 30, never)
        assert (queue.unfinished, queue.waiting) == (0, 0)

    asyncio.run(run())


def test_places_are_bounded() -> None:
    async def run() -> None:
        queue, gate = InferenceQueue(2, 3), threading.Event()
        jobs = [asyncio.create_task(queue.run(blocked(gate), 30, never)) for _ in range(5)]
        await until(lambda: queue.unfinished == 5)
        assert queue.waiting == 3
        with pytest.raises(Refusal) as caught:
            await queue.run(lambda check: 1, 30, never)
        assert caught.value.status == 429
        assert 1 <= int(caught.value.headers["Retry-After"]) <= MOST_RETRY_S
        gate.set()
        assert await asyncio.gather(*jobs) == [7] * 5
        assert await queue.run(lambda check: 1, 30, never) == 1

    asyncio.run(run())


def test_what_waits_and_is_given_up_never_runs_and_frees_its_place() -> None:
    async def run() -> None:
        queue, gate, ran = InferenceQueue(1, 1), threading.Event(), list[int]()
        first = asyncio.create_task(queue.run(blocked(gate), 30, never))
        await until(lambda: queue.unfinished == 1)
        gone = asyncio.Event()

        async def leaves() -> None:
            await gone.wait()

        second = asyncio.create_task(queue.run(lambda check: ran.append(1), 30, leaves))
        await until(lambda: queue.unfinished == 2)
        gone.set()
        with pytest.raises(Refusal) as caught:
            await second
        assert caught.value.status == GONE
        await until(lambda: queue.unfinished == 1)
        with pytest.raises(Refusal) as caught:
            await queue.run(lambda check: ran.append(1), 0.05, never)
        assert caught.value.status == 503
        gate.set()
        assert await first == 7
        await until(lambda: queue.unfinished == 0)
        assert ran == []

    asyncio.run(run())


def test_what_runs_and_is_given_up_is_told_and_counts_until_it_ends() -> None:
    async def run() -> None:
        queue, gate, told = InferenceQueue(1, 0), threading.Event(), list[str]()

        def tiles(check: Any) -> None:
            check()
            assert gate.wait(30)
            try:
                check()
            except Refusal as error:
                told.append(error.text)
                raise

        with pytest.raises(Refusal) as caught:
            await queue.run(tiles, 0.1, never)
        assert (caught.value.status, queue.unfinished) == (503, 1)
        with pytest.raises(Refusal, match="429"):
            await queue.run(lambda check: 1, 30, never)
        gate.set()
        await until(lambda: queue.unfinished == 0)
        assert told == ["nobody waits for the answer any more."]

    asyncio.run(run())
